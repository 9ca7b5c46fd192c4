/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions around what bindgen cannot see: macros, static inlines, and the
 * places where kernel versions differ.  Each is one step that Rust then makes
 * safe.
 */
#ifndef _CACHEFILES_RS_SHIMS_H
#define _CACHEFILES_RS_SHIMS_H

#include <linux/anon_inodes.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/fscache-cache.h>
#include <linux/ioprio.h>
#include <linux/miscdevice.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/netfs.h>
#include <linux/path.h>
#include <linux/poll.h>
#include <linux/security.h>
#include <linux/statfs.h>
#include <linux/uio.h>
#include <linux/xarray.h>
#include <linux/xattr.h>

/* the module; `module!` of 6.12 cannot declare parameters */
extern unsigned int cfrs_debug;
unsigned int cfrs_ondemand_protocol(void);
extern struct workqueue_struct *cfrs_workers;
extern struct kmem_cache *cfrs_ios;
int cfrs_init(void);
void cfrs_exit(void);
void cfrs_flush_workers(void);
struct cfrs_periodic;
struct cfrs_periodic *cfrs_start_periodic(unsigned int ms,
					  void (*call)(void *arg), void *arg);
void cfrs_stop_periodic(struct cfrs_periodic *periodic);

/* atomics and waiting */
void cfrs_set_bit(unsigned int nr, unsigned long *addr);
void cfrs_clear_bit(unsigned int nr, unsigned long *addr);
bool cfrs_test_and_clear_bit(unsigned int nr, unsigned long *addr);
void cfrs_init_completion(struct completion *done);
void cfrs_init_waitqueue(struct wait_queue_head *wq);
void cfrs_wake_up_all(struct wait_queue_head *wq);
void cfrs_poll_wait(struct file *file, struct wait_queue_head *wq,
		    struct poll_table_struct *table);
bool cfrs_ratelimit(void);
bool cfrs_is_dying(void);
long cfrs_wait_killable_ms(struct completion *done, unsigned int ms);

/* xarray */
void cfrs_xa_init(struct xarray *xa, bool from_one);
void cfrs_xa_lock(struct xarray *xa);
void cfrs_xa_unlock(struct xarray *xa);
int cfrs_xa_reserve_cyclic(struct xarray *xa, u32 *id, u32 min, u32 max,
			   u32 *next);
int cfrs_xa_store_reserved(struct xarray *xa, unsigned long id, void *entry);
void *cfrs_xa_find(struct xarray *xa, unsigned long *id);

/* credentials and security */
const struct cred *cfrs_override_creds(const struct cred *new);
void cfrs_revert_creds(const struct cred *old);
void cfrs_put_cred(const struct cred *cred);
struct cred *cfrs_prepare_kernel_cred(void);
bool cfrs_capable_sys_admin(void);
int cfrs_secctx_to_secid(const char *ctx, u32 len, u32 *secid);

/* dentries, inodes, mounts */
struct inode *cfrs_d_inode(const struct dentry *dentry);
bool cfrs_d_is_negative(const struct dentry *dentry);
bool cfrs_d_is_reg(const struct dentry *dentry);
bool cfrs_d_is_dir(const struct dentry *dentry);
bool cfrs_d_unhashed(const struct dentry *dentry);
struct dentry *cfrs_dget(struct dentry *dentry);
void cfrs_inode_lock_parent(struct inode *inode);
void cfrs_inode_unlock(struct inode *inode);
bool cfrs_mark_kernel_file(struct inode *inode);
bool cfrs_is_kernel_file(struct inode *inode);
void cfrs_unmark_kernel_file(struct inode *inode);
int cfrs_backing_fs_error(const struct path *root, const char **why);
bool cfrs_dir_usable(const struct dentry *dir);
struct dentry *cfrs_lookup(struct dentry *dir, const char *name, int len);
struct dentry *cfrs_lookup_positive(struct dentry *dir, const char *name,
				    int len);
int cfrs_mkdir(struct vfsmount *mnt, struct dentry *dir, struct dentry *child,
	       umode_t mode);
int cfrs_unlink(struct vfsmount *mnt, struct dentry *dir,
		struct dentry *victim);
int cfrs_link(struct dentry *old, struct dentry *dir, struct dentry *new_entry);
int cfrs_rename_to(struct vfsmount *mnt, struct dentry *from_dir,
		   struct dentry *victim, struct dentry *to_dir,
		   const char *name, int len, const char **why);
int cfrs_set_xattr(struct vfsmount *mnt, struct dentry *dentry,
		   const char *name, const void *value, size_t size);
int cfrs_remove_xattr(struct vfsmount *mnt, struct dentry *dentry,
		      const char *name);
ssize_t cfrs_get_xattr(struct dentry *dentry, const char *name, void *value,
		       size_t size);
int cfrs_want_write(struct vfsmount *mnt);
void cfrs_drop_write(struct vfsmount *mnt);
int cfrs_sync_filesystem(struct vfsmount *mnt);
int cfrs_statfs(struct vfsmount *mnt, struct kstatfs *stats);
void cfrs_current_dir(struct path *path);
int cfrs_check_create(struct dentry *root, const char **why);

/* files */
int cfrs_get_unused_fd(unsigned int flags);
struct file *cfrs_get_file(struct file *file);
struct file *cfrs_open_tmpfile(struct vfsmount *mnt, struct dentry *dir,
			       const struct cred *cred);
struct file *cfrs_open_file(struct vfsmount *mnt, struct dentry *dentry,
			    const struct cred *cred);
bool cfrs_file_has_iter(const struct file *file);
struct inode *cfrs_file_inode(const struct file *file);
struct path cfrs_file_path(const struct file *file);
struct dentry *cfrs_file_dentry(const struct file *file);
loff_t cfrs_file_size(const struct file *file);
u64 cfrs_file_blocks(const struct file *file);
loff_t cfrs_file_size_limit(const struct file *file);
bool cfrs_has_pages(const struct file *file, loff_t from, loff_t last);
int cfrs_write_out(const struct file *file, loff_t from, loff_t last);
int cfrs_set_size(struct file *file, loff_t size);
int cfrs_truncate(struct file *file, loff_t size);
void cfrs_touch_atime(struct file *file);
ssize_t cfrs_write_blocks(struct file *file, const void *blocks, size_t len,
			  loff_t pos);
ssize_t cfrs_read_blocks(struct file *file, void *blocks, size_t len, loff_t pos);
/* Memory for one I/O under way. */
#define CFRS_IO_SIZE 192
struct kiocb *cfrs_alloc_io(struct file *file, loff_t pos, bool write,
			    void (*complete)(struct kiocb *iocb, long ret));
void cfrs_free_io(struct kiocb *io);
ssize_t cfrs_submit_io(struct kiocb *iocb, struct iov_iter *iter);
void cfrs_io_queued_over(struct kiocb *iocb);
bool cfrs_takes_directly(struct file *file, const struct iov_iter *from);
ssize_t cfrs_write_iter(struct file *file, loff_t pos, struct iov_iter *iter);
size_t cfrs_iov_iter_count(const struct iov_iter *iter);
void cfrs_iov_iter_set_count(struct iov_iter *iter, size_t count);
size_t cfrs_copy_from_iter(void *to, size_t len, struct iov_iter *iter);

/* watching for changes to a file */
struct cfrs_watch;
struct cfrs_changes {
	refcount_t	users;
	atomic_t	count;
	/* The task that makes a change of ours, at which fsnotify tells in it. */
	void		*changer;
};

int cfrs_start_watching(void);
void cfrs_stop_watching(void);
struct cfrs_watch *cfrs_watch_inode(struct inode *inode,
				    struct cfrs_changes **changes);
void cfrs_unwatch(struct cfrs_watch *watch);
void cfrs_own_change(struct cfrs_changes *changes, bool begins);
void cfrs_put_changes(struct cfrs_changes *changes);

/* fscache */
void *cfrs_cookie_key(struct fscache_cookie *cookie);
void cfrs_count_object(struct fscache_cache *cache);
void cfrs_uncount_object(struct fscache_cache *cache);
void cfrs_wait_for_objects(struct fscache_cache *cache);
void cfrs_count_io(bool write);
void cfrs_count_no_space(bool create);
void cfrs_count_culled(void);
struct fscache_cookie *cfrs_get_cookie(struct fscache_cookie *cookie);
void cfrs_put_cookie(struct fscache_cookie *cookie);
void cfrs_end_io_access(struct fscache_cookie *cookie);
struct fscache_volume *cfrs_try_get_volume(struct fscache_volume *volume);
void cfrs_put_volume(struct fscache_volume *volume);
void cfrs_pin_volume(struct fscache_volume *volume);
void cfrs_call_terminated(netfs_io_terminated_t func, void *priv,
			  ssize_t result, bool was_async);
void cfrs_cookie_snapshot(struct fscache_cookie *cookie, void *aux,
			  loff_t *size, unsigned int *invalidations);
void cfrs_cookie_look_up_again(struct fscache_cookie *cookie);
struct fscache_volume *cfrs_acquire_volume(void);
void cfrs_relinquish_volume(struct fscache_volume *volume);
int cfrs_newest_cookie(struct fscache_volume *volume, u32 *debug_id);
void cfrs_count_dio_misfit(void);

/* netfs: what of a subrequest and its request a cache reads and changes */
struct cfrs_read {
	struct netfs_cache_resources *resources;
	size_t			*len;
	unsigned long		*flags;
	unsigned long long	start;
	unsigned long long	size_now;
	unsigned long long	zero_point;
	ino_t			inode;
	bool			is_first;
};

struct cfrs_write {
	struct netfs_cache_resources *resources;
	struct iov_iter		*iter;
	size_t			*len;
	size_t			*transferred;
	unsigned long long	start;
	unsigned long long	file_size;
	size_t			extendable;
	bool			is_copy;
};

void cfrs_open_read(struct netfs_io_subrequest *subreq, struct cfrs_read *parts);
void cfrs_open_write(struct netfs_io_subrequest *subreq, struct cfrs_write *parts);
void cfrs_iov_iter_extend(struct iov_iter *iter, size_t bytes);
struct netfs_cache_resources *cfrs_begin_write(struct netfs_io_subrequest *subreq);
bool cfrs_upload_failed(const struct netfs_cache_resources *cres);
void cfrs_refuse_prepare_write(struct netfs_io_subrequest *subreq);

#endif
