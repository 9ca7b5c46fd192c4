// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of watch.rs: marks of fsnotify on inodes, each of which counts the
 * changes to its file.
 */
#include <linux/fsnotify_backend.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>
#include "shims.h"

#ifndef CONFIG_FSNOTIFY
#error "CONFIG_FSNOTIFY is needed, which CONFIG_INOTIFY_USER and others select"
#endif

struct cfrs_watch {
	struct fsnotify_mark	mark;
	struct cfrs_changes	*changes;
};

static struct fsnotify_group *group;
/* Watches whose memory is not freed: an event that waits for an answer may hold one. */
static atomic_t live;

static int count_change(struct fsnotify_mark *mark, u32 mask,
			struct inode *inode, struct inode *dir,
			const struct qstr *name, u32 cookie)
{
	struct cfrs_changes *changes = container_of(mark, struct cfrs_watch, mark)->changes;

	if (READ_ONCE(changes->changer) != current)
		atomic_inc(&changes->count);
	return 0;
}

static void free_watch(struct fsnotify_mark *mark)
{
	struct cfrs_watch *watch = container_of(mark, struct cfrs_watch, mark);

	cfrs_put_changes(watch->changes);
	kfree(watch);
	if (atomic_dec_and_test(&live))
		wake_up_var(&live);
}

static const struct fsnotify_ops ops = {
	.handle_inode_event	= count_change,
	.free_mark		= free_watch,
};

int cfrs_start_watching(void)
{
	group = fsnotify_alloc_group(&ops, 0);
	return PTR_ERR_OR_ZERO(group);
}

void cfrs_stop_watching(void)
{
	/* free_watch() is called by a worker: have it begin, and be done. */
	fsnotify_wait_marks_destroyed();
	wait_var_event(&live, !atomic_read(&live));
	fsnotify_wait_marks_destroyed();
	fsnotify_put_group(group);
}

struct cfrs_watch *cfrs_watch_inode(struct inode *inode,
				    struct cfrs_changes **changes)
{
	struct cfrs_watch *watch = kmalloc(sizeof(*watch), GFP_KERNEL);
	struct cfrs_changes *counted = kmalloc(sizeof(*counted), GFP_KERNEL);
	int ret;

	if (!watch || !counted) {
		kfree(watch);
		kfree(counted);
		return ERR_PTR(-ENOMEM);
	}
	/* One for the watch, one for the caller. */
	refcount_set(&counted->users, 2);
	atomic_set(&counted->count, 0);
	counted->changer = NULL;
	atomic_inc(&live);
	watch->changes = counted;
	fsnotify_init_mark(&watch->mark, group);
	watch->mark.mask = FS_MODIFY;
	ret = fsnotify_add_inode_mark(&watch->mark, inode, 0);
	if (ret) {
		fsnotify_put_mark(&watch->mark);
		cfrs_put_changes(counted);
		return ERR_PTR(ret);
	}
	*changes = counted;
	return watch;
}

void cfrs_unwatch(struct cfrs_watch *watch)
{
	fsnotify_destroy_mark(&watch->mark, group);
	fsnotify_put_mark(&watch->mark);
}

void cfrs_own_change(struct cfrs_changes *changes, bool begins)
{
	WRITE_ONCE(changes->changer, begins ? current : NULL);
	atomic_inc(&changes->count);
}

void cfrs_put_changes(struct cfrs_changes *changes)
{
	if (refcount_dec_and_test(&changes->users))
		kfree(changes);
}
