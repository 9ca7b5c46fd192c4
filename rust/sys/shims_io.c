// SPDX-License-Identifier: GPL-2.0
/*
 * The C halves of aio.rs and iov_iter.rs, and those of file.rs that read and write
 * data, all directly.
 */
#include <linux/blkdev.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include "shims.h"

/* Whole blocks of kmalloc()'s memory, directly. */
static ssize_t transfer_blocks(struct file *file, void *blocks, size_t len,
			       loff_t pos, bool write)
{
	struct kiocb iocb = {
		.ki_filp	= file,
		.ki_pos		= pos,
		.ki_flags	= IOCB_DIRECT | (write ? IOCB_WRITE : 0),
		.ki_ioprio	= get_current_ioprio(),
	};
	struct bio_vec bvec;
	struct iov_iter iter;

	bvec_set_virt(&bvec, blocks, len);
	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, &bvec, 1, len);
	if (write)
		return vfs_iocb_iter_write(file, &iocb, &iter);
	return vfs_iocb_iter_read(file, &iocb, &iter);
}

ssize_t cfrs_write_blocks(struct file *file, const void *blocks, size_t len,
			  loff_t pos)
{
	return transfer_blocks(file, (void *)blocks, len, pos, true);
}

ssize_t cfrs_read_blocks(struct file *file, void *blocks, size_t len, loff_t pos)
{
	return transfer_blocks(file, blocks, len, pos, false);
}

/*
 * The memory is of a cache of its own: what one I/O frees, the next one takes.  Among
 * all others of its size it would be on another slab by then, which is the slow way,
 * both to free and to allocate.
 *
 * Neither this nor cfrs_submit_io() waits for memory that a netfs would have to write
 * out: it may be what asks.
 */
struct kiocb *cfrs_alloc_io(struct file *file, loff_t pos, bool write,
			    void (*complete)(struct kiocb *, long))
{
	struct kiocb *iocb = kmem_cache_alloc(cfrs_ios, GFP_NOFS);

	if (iocb)
		*iocb = (struct kiocb){
			.ki_filp	= file,
			.ki_pos		= pos,
			.ki_flags	= IOCB_DIRECT | (write ? IOCB_WRITE : 0),
			.ki_ioprio	= get_current_ioprio(),
			.ki_complete	= complete,
		};
	return iocb;
}

void cfrs_free_io(struct kiocb *io)
{
	kmem_cache_free(cfrs_ios, io);
}

ssize_t cfrs_submit_io(struct kiocb *iocb, struct iov_iter *iter)
{
	unsigned int flags = memalloc_nofs_save();
	ssize_t ret;

	if (iocb->ki_flags & IOCB_WRITE)
		ret = vfs_iocb_iter_write(iocb->ki_filp, iocb, iter);
	else
		ret = vfs_iocb_iter_read(iocb->ki_filp, iocb, iter);
	memalloc_nofs_restore(flags);
	return ret;
}

/* The end of what was queued; else the VFS has ended a write already. */
void cfrs_io_queued_over(struct kiocb *iocb)
{
	if (iocb->ki_flags & IOCB_WRITE)
		kiocb_end_write(iocb);
}

/* So many pages of a process are held at once. */
#define MAX_HELD 1024

/*
 * A process's pages are held before the backing file is written: to fault them in
 * under its inode's lock would order that lock before mmap_lock, and a netfs may hold
 * mmap_lock when it reads its cache or writes to it.  And no fault ends a write in the
 * midst of a block.
 */
static ssize_t write_held(struct kiocb *iocb, struct iov_iter *from)
{
	unsigned int count = iov_iter_npages(from, MAX_HELD), filled = 0;
	ssize_t len, whole, ret = -EINVAL;
	struct iov_iter held;
	struct bio_vec *bvecs;
	struct page **pages;
	size_t offset, part, left;

	bvecs = kvmalloc_array(count, sizeof(*bvecs) + sizeof(*pages), GFP_KERNEL);
	if (!bvecs)
		return -ENOMEM;
	pages = (struct page **)(bvecs + count);
	len = iov_iter_extract_pages(from, &pages, iov_iter_count(from), count, 0, &offset);
	if (len <= 0) {
		kvfree(bvecs);
		return len;
	}
	count = DIV_ROUND_UP(offset + len, PAGE_SIZE);
	whole = round_down(len, PAGE_SIZE);
	for (left = whole; left; left -= part, offset = 0) {
		part = min_t(size_t, left, PAGE_SIZE - offset);
		bvec_set_page(&bvecs[filled], pages[filled], part, offset);
		filled++;
	}
	if (whole) {
		iov_iter_bvec(&held, ITER_SOURCE, bvecs, filled, whole);
		ret = vfs_iocb_iter_write(iocb->ki_filp, iocb, &held);
	}
	iov_iter_revert(from, len - max_t(ssize_t, ret, 0));
	unpin_user_pages(pages, count);
	kvfree(bvecs);
	return ret;
}

/*
 * As the block layer will ask; a file system without one device has its own rules.  An
 * empty iterator may be past its last segment, which iov_iter_is_aligned() looks at.
 */
bool cfrs_takes_directly(struct file *file, const struct iov_iter *from)
{
	struct block_device *bdev = file_inode(file)->i_sb->s_bdev;

	return !bdev || !iov_iter_count(from) ||
	       iov_iter_is_aligned(from, bdev_dma_alignment(bdev),
				   bdev_logical_block_size(bdev) - 1);
}

ssize_t cfrs_write_iter(struct file *file, loff_t pos, struct iov_iter *iter)
{
	struct kiocb iocb = {
		.ki_filp	= file,
		.ki_pos		= pos,
		.ki_flags	= IOCB_DIRECT | IOCB_WRITE,
		.ki_ioprio	= get_current_ioprio(),
	};

	if (iov_iter_extract_will_pin(iter))
		return write_held(&iocb, iter);
	return vfs_iocb_iter_write(file, &iocb, iter);
}

size_t cfrs_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

void cfrs_iov_iter_set_count(struct iov_iter *iter, size_t count)
{
	iter->count = count;
}

size_t cfrs_copy_from_iter(void *to, size_t len, struct iov_iter *iter)
{
	return copy_from_iter(to, len, iter);
}
