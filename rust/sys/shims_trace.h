/* SPDX-License-Identifier: GPL-2.0 */
/*
 * CacheFiles' trace events as the kernel declares them, and a function for
 * each, since what the kernel makes of a declaration is inline.  An object is
 * its number here, 0 for none.
 */
#ifndef _CACHEFILES_RS_SHIMS_TRACE_H
#define _CACHEFILES_RS_SHIMS_TRACE_H

#include <linux/fs.h>
#include <linux/fscache-cache.h>
#include <linux/netfs.h>
#include <linux/cachefiles.h>

/* As much of C's records as its events look at. */
struct cachefiles_object {
	unsigned int debug_id;
};

struct cachefiles_volume {
	struct fscache_volume *vcookie;
};

enum cachefiles_content {
	CACHEFILES_CONTENT_NO_DATA	= 0,
	CACHEFILES_CONTENT_SINGLE	= 1,
	CACHEFILES_CONTENT_ALL		= 2,
	CACHEFILES_CONTENT_BACKFS_MAP	= 3,
	CACHEFILES_CONTENT_DIRTY	= 4,
};

#include <trace/events/netfs.h>
#ifdef CFRS_DEFINE_EVENTS
#define CREATE_TRACE_POINTS
#endif
#include <trace/events/cachefiles.h>

void cfrs_trace_ref(u32 obj, u32 cookie, int usage,
		    enum cachefiles_obj_ref_trace why);
void cfrs_trace_lookup(u32 obj, struct dentry *dir, struct dentry *found);
void cfrs_trace_mkdir(struct dentry *dir, struct dentry *child);
void cfrs_trace_tmpfile(u32 obj, struct inode *backer);
void cfrs_trace_link(u32 obj, struct inode *backer);
void cfrs_trace_unlink(u32 obj, struct dentry *victim,
		       enum fscache_why_object_killed why);
void cfrs_trace_rename(u32 obj, struct dentry *victim,
		       enum fscache_why_object_killed why);
void cfrs_trace_coherency(u32 obj, struct dentry *dentry, u8 content,
			  enum cachefiles_coherency_trace why);
void cfrs_trace_vol_coherency(u32 volume, struct dentry *dentry,
			      enum cachefiles_coherency_trace why);
void cfrs_trace_prep_read(u32 obj, struct file *file, loff_t start, size_t len,
			  unsigned long flags, enum netfs_io_source source,
			  enum cachefiles_prepare_read_trace why,
			  ino_t netfs_inode);
void cfrs_trace_read(u32 obj, struct file *file, loff_t start, size_t len);
void cfrs_trace_write(u32 obj, struct file *file, loff_t start, size_t len);
void cfrs_trace_trunc(u32 obj, struct file *file, loff_t from, loff_t to,
		      enum cachefiles_trunc_trace why);
void cfrs_trace_mark(u32 obj, struct inode *inode, int what);
void cfrs_trace_vfs_error(u32 obj, struct inode *backer, int error,
			  enum cachefiles_error_trace where);
void cfrs_trace_io_error(u32 obj, struct inode *backer, int error,
			 enum cachefiles_error_trace where);
void cfrs_trace_ondemand_open(u32 obj, u32 msg_id, u32 object_id, u32 fd,
			      u32 flags);
void cfrs_trace_ondemand_copen(u32 obj, u32 msg_id, s64 len);
void cfrs_trace_ondemand_close(u32 obj, u32 msg_id, u32 object_id);
void cfrs_trace_ondemand_read(u32 obj, u32 msg_id, u32 object_id, u64 off,
			      u64 len);
void cfrs_trace_ondemand_cread(u32 obj, u32 msg_id);
void cfrs_trace_ondemand_fd_write(u32 obj, struct file *file, loff_t start,
				  size_t len);
void cfrs_trace_ondemand_fd_release(u32 obj, int object_id);

#endif
