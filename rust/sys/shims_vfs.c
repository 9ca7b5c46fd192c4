// SPDX-License-Identifier: GPL-2.0
/*
 * The C halves of dentry.rs, file.rs, inode.rs, mount.rs and xattr.rs: the VFS,
 * but for data, which is in shims_io.c.
 */
#include <linux/sched/mm.h>
#include "shims.h"

/*
 * Dentries, inodes, mounts.
 */
struct inode *cfrs_d_inode(const struct dentry *dentry)
{
	return d_backing_inode(dentry);
}

bool cfrs_d_is_negative(const struct dentry *dentry)
{
	return d_is_negative(dentry);
}

bool cfrs_d_is_reg(const struct dentry *dentry)
{
	return d_is_reg(dentry);
}

bool cfrs_d_is_dir(const struct dentry *dentry)
{
	return d_can_lookup(dentry);
}

bool cfrs_d_unhashed(const struct dentry *dentry)
{
	return d_unhashed(dentry);
}

struct dentry *cfrs_dget(struct dentry *dentry)
{
	return dget(dentry);
}

void cfrs_inode_lock_parent(struct inode *inode)
{
	inode_lock_nested(inode, I_MUTEX_PARENT);
}

void cfrs_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

bool cfrs_mark_kernel_file(struct inode *inode)
{
	bool ours;

	inode_lock(inode);
	ours = !(inode->i_flags & S_KERNEL_FILE);
	inode->i_flags |= S_KERNEL_FILE;
	inode_unlock(inode);
	return ours;
}

bool cfrs_is_kernel_file(struct inode *inode)
{
	return READ_ONCE(inode->i_flags) & S_KERNEL_FILE;
}

void cfrs_unmark_kernel_file(struct inode *inode)
{
	inode_lock(inode);
	inode->i_flags &= ~S_KERNEL_FILE;
	inode_unlock(inode);
}

/* What a file system must be able to do to hold a cache, and which is missing. */
int cfrs_backing_fs_error(const struct path *root, const char **why)
{
	const struct dentry *dentry = root->dentry;
	const struct inode *inode = d_backing_inode(dentry);
	const struct super_block *sb = dentry->d_sb;

	if (is_idmapped_mnt(root->mnt)) {
		*why = "it is on an idmapped mount";
		return -EINVAL;
	}
	if (!inode->i_op->mkdir) {
		*why = "its file system cannot make directories";
		return -EOPNOTSUPP;
	}
	if (!inode->i_op->tmpfile) {
		*why = "its file system has no O_TMPFILE";
		return -EOPNOTSUPP;
	}
	if (!(inode->i_opflags & IOP_XATTR)) {
		*why = "its file system has no extended attributes";
		return -EOPNOTSUPP;
	}
	if (!sb->s_op->statfs || !sb->s_op->sync_fs) {
		*why = "its file system cannot tell free space or be synced";
		return -EOPNOTSUPP;
	}
	if (sb->s_blocksize > PAGE_SIZE) {
		*why = "its file system's blocks are larger than a page";
		return -EOPNOTSUPP;
	}
	if (sb_rdonly(sb)) {
		*why = "its file system is read-only";
		return -EROFS;
	}
	return 0;
}

bool cfrs_dir_usable(const struct dentry *dir)
{
	const struct inode *inode = d_backing_inode(dir);

	return (inode->i_opflags & IOP_XATTR) && !IS_CASEFOLDED(inode) &&
	       inode->i_op->mkdir && inode->i_op->rename &&
	       inode->i_op->rmdir && inode->i_op->unlink;
}

struct dentry *cfrs_lookup(struct dentry *dir, const char *name, int len)
{
	return lookup_one_len(name, dir, len);
}

struct dentry *cfrs_lookup_positive(struct dentry *dir, const char *name,
				    int len)
{
	return lookup_positive_unlocked(name, dir, len);
}

int cfrs_mkdir(struct vfsmount *mnt, struct dentry *dir, struct dentry *child,
	       umode_t mode)
{
	struct path path = { .mnt = mnt, .dentry = dir };
	int ret;

	ret = security_path_mkdir(&path, child, mode);
	if (ret < 0)
		return ret;
	return vfs_mkdir(&nop_mnt_idmap, d_inode(dir), child, mode);
}

int cfrs_unlink(struct vfsmount *mnt, struct dentry *dir,
		struct dentry *victim)
{
	struct path path = { .mnt = mnt, .dentry = dir };
	int ret;

	ret = security_path_unlink(&path, victim);
	if (ret < 0)
		return ret;
	return vfs_unlink(&nop_mnt_idmap, d_backing_inode(dir), victim, NULL);
}

int cfrs_link(struct dentry *old, struct dentry *dir, struct dentry *new_entry)
{
	return vfs_link(old, &nop_mnt_idmap, d_inode(dir), new_entry, NULL);
}

/*
 * Move @victim out of @from_dir to the name @name in @to_dir.  Neither
 * directory may be locked.  Does nothing if @victim is no longer in @from_dir.
 * -EEXIST if the name is taken; with any other error @why is a sentence.
 */
int cfrs_rename_to(struct vfsmount *mnt, struct dentry *from_dir,
		   struct dentry *victim, struct dentry *to_dir,
		   const char *name, int len, const char **why)
{
	struct path from = { .mnt = mnt, .dentry = from_dir };
	struct path to = { .mnt = mnt, .dentry = to_dir };
	struct dentry *trap, *grave;
	struct renamedata rd;
	int ret;

	if (from_dir->d_sb != to_dir->d_sb) {
		*why = "the graveyard is on another file system";
		return -EXDEV;
	}
	ret = mnt_want_write(mnt);
	if (ret < 0) {
		*why = "the file system cannot be written";
		return ret;
	}
	trap = lock_rename(to_dir, from_dir);
	if (IS_ERR(trap)) {
		*why = "the directories cannot be locked";
		ret = PTR_ERR(trap);
		goto drop_write;
	}

	ret = 0;
	if (victim->d_parent != from_dir || IS_DEADDIR(d_inode(victim)))
		goto unlock;

	ret = -EIO;
	if (trap == victim) {
		*why = "a directory may not be moved into itself";
		goto unlock;
	}
	if (d_mountpoint(victim)) {
		*why = "there is a mount point in the cache";
		goto unlock;
	}

	grave = lookup_one_len(name, to_dir, len);
	if (IS_ERR(grave)) {
		*why = "the lookup in the graveyard failed";
		ret = PTR_ERR(grave);
		goto unlock;
	}
	if (d_is_positive(grave)) {
		ret = -EEXIST;
		goto put;
	}
	if (trap == grave) {
		*why = "a directory may not be moved into itself";
		goto put;
	}

	ret = security_path_rename(&from, victim, &to, grave, 0);
	if (ret < 0) {
		*why = "the security policy denies the rename";
		goto put;
	}

	rd = (struct renamedata){
		.old_mnt_idmap	= &nop_mnt_idmap,
		.old_dir	= d_inode(from_dir),
		.old_dentry	= victim,
		.new_mnt_idmap	= &nop_mnt_idmap,
		.new_dir	= d_inode(to_dir),
		.new_dentry	= grave,
	};
	ret = vfs_rename(&rd);
	if (ret < 0)
		*why = "the rename into the graveyard failed";
put:
	dput(grave);
unlock:
	unlock_rename(to_dir, from_dir);
drop_write:
	mnt_drop_write(mnt);
	return ret;
}

int cfrs_set_xattr(struct vfsmount *mnt, struct dentry *dentry,
		   const char *name, const void *value, size_t size)
{
	int ret;

	ret = mnt_want_write(mnt);
	if (ret < 0)
		return ret;
	ret = vfs_setxattr(&nop_mnt_idmap, dentry, name, value, size, 0);
	mnt_drop_write(mnt);
	return ret;
}

int cfrs_remove_xattr(struct vfsmount *mnt, struct dentry *dentry,
		      const char *name)
{
	int ret;

	ret = mnt_want_write(mnt);
	if (ret < 0)
		return ret;
	ret = vfs_removexattr(&nop_mnt_idmap, dentry, name);
	mnt_drop_write(mnt);
	return ret;
}

ssize_t cfrs_get_xattr(struct dentry *dentry, const char *name, void *value,
		       size_t size)
{
	return vfs_getxattr(&nop_mnt_idmap, dentry, name, value, size);
}

int cfrs_want_write(struct vfsmount *mnt)
{
	return mnt_want_write(mnt);
}

void cfrs_drop_write(struct vfsmount *mnt)
{
	mnt_drop_write(mnt);
}

int cfrs_sync_filesystem(struct vfsmount *mnt)
{
	int ret;

	down_read(&mnt->mnt_sb->s_umount);
	ret = sync_filesystem(mnt->mnt_sb);
	up_read(&mnt->mnt_sb->s_umount);
	return ret;
}

int cfrs_statfs(struct vfsmount *mnt, struct kstatfs *stats)
{
	struct path path = { .mnt = mnt, .dentry = mnt->mnt_root };

	memset(stats, 0, sizeof(*stats));
	return vfs_statfs(&path, stats);
}

/* An exiting task has no current directory any more, and *path stays as it is. */
void cfrs_current_dir(struct path *path)
{
	if (current->fs)
		get_fs_pwd(current->fs, path);
}

/* May the current credentials make directories and files in @root? */
int cfrs_check_create(struct dentry *root, const char **why)
{
	int ret;

	ret = security_inode_mkdir(d_backing_inode(root), root, 0);
	if (ret < 0) {
		*why = "make directories";
		return ret;
	}
	ret = security_inode_create(d_backing_inode(root), root, 0);
	if (ret < 0)
		*why = "create files";
	return ret;
}

/*
 * Files.
 */
int cfrs_get_unused_fd(unsigned int flags)
{
	return current->files ? get_unused_fd_flags(flags) : -EBADF;
}

struct file *cfrs_get_file(struct file *file)
{
	return get_file(file);
}

/* Our own I/O is no news to those who watch the file, of whom we are one. */
#define CFRS_OPEN_FLAGS (O_RDWR | O_LARGEFILE | O_DIRECT | __FMODE_NONOTIFY)

struct file *cfrs_open_tmpfile(struct vfsmount *mnt, struct dentry *dir,
			       const struct cred *cred)
{
	const struct path path = { .mnt = mnt, .dentry = dir };
	struct file *file;
	int ret;

	ret = mnt_want_write(mnt);
	if (ret < 0)
		return ERR_PTR(ret);
	file = kernel_tmpfile_open(&nop_mnt_idmap, &path, S_IFREG | 0600,
				   CFRS_OPEN_FLAGS, cred);
	mnt_drop_write(mnt);
	return file;
}

struct file *cfrs_open_file(struct vfsmount *mnt, struct dentry *dentry,
			    const struct cred *cred)
{
	const struct path path = { .mnt = mnt, .dentry = dentry };

	return kernel_file_open(&path, CFRS_OPEN_FLAGS, cred);
}

bool cfrs_file_has_iter(const struct file *file)
{
	return file->f_op->read_iter && file->f_op->write_iter;
}

struct inode *cfrs_file_inode(const struct file *file)
{
	return file_inode(file);
}

/* With a reference to both. */
struct path cfrs_file_path(const struct file *file)
{
	struct path path = file->f_path;

	path_get(&path);
	return path;
}

struct dentry *cfrs_file_dentry(const struct file *file)
{
	return file->f_path.dentry;
}

loff_t cfrs_file_size(const struct file *file)
{
	return i_size_read(file_inode(file));
}

/* As stat(2) tells: not every file system keeps the number in the inode. */
u64 cfrs_file_blocks(const struct file *file)
{
	struct kstat stat;

	if (vfs_getattr_nosec(&file->f_path, &stat, STATX_BLOCKS, AT_STATX_DONT_SYNC))
		return 0;
	return stat.blocks;
}

/* The largest offset that this task may write up to. */
loff_t cfrs_file_size_limit(const struct file *file)
{
	return min_t(u64, rlimit(RLIMIT_FSIZE), file_inode(file)->i_sb->s_maxbytes);
}

/* An overlay's pages are those of the file system below. */
bool cfrs_has_pages(const struct file *file, loff_t from, loff_t last)
{
	const struct inode *inode = d_real_inode(file->f_path.dentry);
	unsigned long index = from >> PAGE_SHIFT;

	if (!inode || mapping_empty(inode->i_mapping))
		return false;
	/* A page that was evicted has left an entry, which SEEK_DATA takes for data. */
	return xa_find(&inode->i_mapping->i_pages, &index, last >> PAGE_SHIFT,
		       XA_PRESENT);
}

int cfrs_write_out(const struct file *file, loff_t from, loff_t last)
{
	const struct inode *inode = d_real_inode(file->f_path.dentry);

	return inode ? filemap_write_and_wait_range(inode->i_mapping, from, last) : 0;
}

int cfrs_set_size(struct file *file, loff_t size)
{
	struct iattr attr = { .ia_valid = ATTR_SIZE, .ia_size = size };
	int ret;

	ret = mnt_want_write_file(file);
	if (ret < 0)
		return ret;
	inode_lock(file_inode(file));
	ret = notify_change(&nop_mnt_idmap, file->f_path.dentry, &attr, NULL);
	inode_unlock(file_inode(file));
	mnt_drop_write_file(file);
	return ret;
}

int cfrs_truncate(struct file *file, loff_t size)
{
	return vfs_truncate(&file->f_path, size);
}

void cfrs_touch_atime(struct file *file)
{
	touch_atime(&file->f_path);
}
