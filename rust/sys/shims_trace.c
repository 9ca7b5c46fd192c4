// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of trace.rs: the trace events themselves.
 */
#define CFRS_DEFINE_EVENTS
#include "shims_trace.h"

/* An object of that number for the length of a call, or none. */
#define OBJECT(id) ref_object(&(struct cachefiles_object){ .debug_id = (id) })

static struct cachefiles_object *ref_object(struct cachefiles_object *obj)
{
	return obj->debug_id ? obj : NULL;
}

void cfrs_trace_ref(u32 obj, u32 cookie, int usage,
		    enum cachefiles_obj_ref_trace why)
{
	trace_cachefiles_ref(obj, cookie, usage, why);
}

void cfrs_trace_lookup(u32 obj, struct dentry *dir, struct dentry *found)
{
	static struct dentry nothing;

	trace_cachefiles_lookup(OBJECT(obj), dir, found ?: &nothing);
}

void cfrs_trace_mkdir(struct dentry *dir, struct dentry *child)
{
	trace_cachefiles_mkdir(dir, child);
}

void cfrs_trace_tmpfile(u32 obj, struct inode *backer)
{
	trace_cachefiles_tmpfile(OBJECT(obj), backer);
}

void cfrs_trace_link(u32 obj, struct inode *backer)
{
	trace_cachefiles_link(OBJECT(obj), backer);
}

void cfrs_trace_unlink(u32 obj, struct dentry *victim,
		       enum fscache_why_object_killed why)
{
	trace_cachefiles_unlink(OBJECT(obj), d_inode(victim)->i_ino, why);
}

void cfrs_trace_rename(u32 obj, struct dentry *victim,
		       enum fscache_why_object_killed why)
{
	trace_cachefiles_rename(OBJECT(obj), d_inode(victim)->i_ino, why);
}

void cfrs_trace_coherency(u32 obj, struct dentry *dentry, u8 content,
			  enum cachefiles_coherency_trace why)
{
	trace_cachefiles_coherency(OBJECT(obj), d_inode(dentry)->i_ino, content,
				   why);
}

void cfrs_trace_vol_coherency(u32 volume, struct dentry *dentry,
			      enum cachefiles_coherency_trace why)
{
	if (trace_cachefiles_vol_coherency_enabled()) {
		struct fscache_volume vcookie = { .debug_id = volume };
		struct cachefiles_volume vol = { .vcookie = &vcookie };

		trace_cachefiles_vol_coherency(&vol, d_inode(dentry)->i_ino,
					       why);
	}
}

void cfrs_trace_prep_read(u32 obj, struct file *file, loff_t start, size_t len,
			  unsigned long flags, enum netfs_io_source source,
			  enum cachefiles_prepare_read_trace why,
			  ino_t netfs_inode)
{
	trace_cachefiles_prep_read(OBJECT(obj), start, len, flags, source, why,
				   file ? file_inode(file)->i_ino : 0,
				   netfs_inode);
}

void cfrs_trace_read(u32 obj, struct file *file, loff_t start, size_t len)
{
	trace_cachefiles_read(OBJECT(obj), file_inode(file), start, len);
}

void cfrs_trace_write(u32 obj, struct file *file, loff_t start, size_t len)
{
	trace_cachefiles_write(OBJECT(obj), file_inode(file), start, len);
}

void cfrs_trace_trunc(u32 obj, struct file *file, loff_t from, loff_t to,
		      enum cachefiles_trunc_trace why)
{
	trace_cachefiles_trunc(OBJECT(obj), file_inode(file), from, to, why);
}

/* 1: marked, 0: it was marked already, -1: the mark is gone. */
void cfrs_trace_mark(u32 obj, struct inode *inode, int what)
{
	if (what > 0)
		trace_cachefiles_mark_active(OBJECT(obj), inode);
	else if (what == 0)
		trace_cachefiles_mark_failed(OBJECT(obj), inode);
	else
		trace_cachefiles_mark_inactive(OBJECT(obj), inode);
}

void cfrs_trace_vfs_error(u32 obj, struct inode *backer, int error,
			  enum cachefiles_error_trace where)
{
	trace_cachefiles_vfs_error(OBJECT(obj), backer, error, where);
}

void cfrs_trace_io_error(u32 obj, struct inode *backer, int error,
			 enum cachefiles_error_trace where)
{
	trace_cachefiles_io_error(OBJECT(obj), backer, error, where);
}

void cfrs_trace_ondemand_open(u32 obj, u32 msg_id, u32 object_id, u32 fd,
			      u32 flags)
{
	struct cachefiles_msg msg = { .msg_id = msg_id, .object_id = object_id };
	struct cachefiles_open load = { .fd = fd, .flags = flags };

	trace_cachefiles_ondemand_open(OBJECT(obj), &msg, &load);
}

void cfrs_trace_ondemand_copen(u32 obj, u32 msg_id, s64 len)
{
	trace_cachefiles_ondemand_copen(OBJECT(obj), msg_id, len);
}

void cfrs_trace_ondemand_close(u32 obj, u32 msg_id, u32 object_id)
{
	struct cachefiles_msg msg = { .msg_id = msg_id, .object_id = object_id };

	trace_cachefiles_ondemand_close(OBJECT(obj), &msg);
}

void cfrs_trace_ondemand_read(u32 obj, u32 msg_id, u32 object_id, u64 off,
			      u64 len)
{
	struct cachefiles_msg msg = { .msg_id = msg_id, .object_id = object_id };
	struct cachefiles_read load = { .off = off, .len = len };

	trace_cachefiles_ondemand_read(OBJECT(obj), &msg, &load);
}

void cfrs_trace_ondemand_cread(u32 obj, u32 msg_id)
{
	trace_cachefiles_ondemand_cread(OBJECT(obj), msg_id);
}

void cfrs_trace_ondemand_fd_write(u32 obj, struct file *file, loff_t start,
				  size_t len)
{
	trace_cachefiles_ondemand_fd_write(OBJECT(obj), file_inode(file), start,
					   len);
}

void cfrs_trace_ondemand_fd_release(u32 obj, int object_id)
{
	trace_cachefiles_ondemand_fd_release(OBJECT(obj), object_id);
}
