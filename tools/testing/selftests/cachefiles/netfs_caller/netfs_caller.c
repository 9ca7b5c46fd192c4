// SPDX-License-Identifier: GPL-2.0
/*
 * A netfs without a file system: one cookie, and what a test says through debugfs
 * done with it.  It is for the operations of a cache that no netfs of this kernel
 * calls.  What must come of them is the test's affair.
 *
 *   write START LEN                    stores LEN bytes where there was nothing
 *   rewrite START LEN                  the same where there may be something
 *   prepare START LEN UPPER            asks whether that may be rewritten
 *   read START LEN                     reads what was stored; EBADMSG if it is not that
 *   occupancy START LEN GRANULARITY    asks what is there
 *   invalidate                         says that all of it is old
 *   begin, end                         of an operation that goes on meanwhile
 *   read-on START LEN                  reads in that operation
 *   use, write-use, unuse              the cookie, to read or to write
 *
 * A command fails as the operation does.  The file reads as "START LEN NS": what was
 * answered to the last "prepare" or "occupancy", or what the last "read-on" has read,
 * and the time that the cache took for the last write or read.
 *
 * The cookie is in use, to write, unless the parameter "idle" is set.
 */

#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/fscache.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/uio.h>

/* What the cookie says that its file is. */
#define FILE_SIZE SZ_1M

/* What is stored. */
#define STORED 0x5a

static struct fscache_volume *volume;
static struct fscache_cookie *cookie;
static struct dentry *control;
static unsigned int uses;
static bool idle;
module_param(idle, bool, 0);

/* The operation that goes on. */
static struct netfs_cache_resources going_on;
static bool is_going_on;

/* Of the last answer. */
static DEFINE_MUTEX(answer_lock);
static loff_t data_start;
static size_t data_len;
static u64 spent;

struct transfer {
	struct completion done;
	ssize_t result;
};

static void transferred(void *priv, ssize_t result, bool was_async)
{
	struct transfer *transfer = priv;

	transfer->result = result;
	complete(&transfer->done);
}

/* Transfers all of these pages, and waits for that. */
static int move(struct netfs_cache_resources *cres, loff_t start, size_t len,
		struct page *pages, unsigned int direction)
{
	struct transfer transfer = {};
	struct iov_iter iter;
	struct bio_vec bvec;

	bvec_set_page(&bvec, pages, len, 0);
	iov_iter_bvec(&iter, direction, &bvec, 1, len);
	init_completion(&transfer.done);
	if (direction == ITER_SOURCE)
		fscache_write(cres, start, &iter, transferred, &transfer);
	else
		fscache_read(cres, start, &iter, NETFS_READ_HOLE_IGNORE, transferred,
			     &transfer);
	wait_for_completion(&transfer.done);
	if (transfer.result < 0)
		return transfer.result;
	return transfer.result == len ? 0 : -EIO;
}

/* How long the cache took for this. */
static void took(ktime_t start)
{
	mutex_lock(&answer_lock);
	spent = ktime_to_ns(ktime_sub(ktime_get(), start));
	mutex_unlock(&answer_lock);
}

static int do_write(loff_t start, size_t len, bool is_new)
{
	unsigned int order = get_order(round_up(len, PAGE_SIZE));
	struct netfs_cache_resources cres = {};
	struct page *pages;
	ktime_t begun;
	int ret;

	pages = alloc_pages(GFP_KERNEL, order);
	if (!pages)
		return -ENOMEM;
	memset(page_address(pages), STORED, PAGE_SIZE << order);
	begun = ktime_get();
	ret = fscache_begin_write_operation(&cres, cookie);
	if (!ret) {
		ret = cres.ops->prepare_write(&cres, &start, &len, len, FILE_SIZE, is_new);
		if (!ret)
			ret = move(&cres, start, len, pages, ITER_SOURCE);
		fscache_end_operation(&cres);
	}
	took(begun);
	__free_pages(pages, order);
	/* As a netfs does when it gives up a page that was stored. */
	if (!ret)
		fscache_note_page_release(cookie);
	return ret;
}

static int do_prepare(loff_t start, size_t len, size_t upper)
{
	struct netfs_cache_resources cres = {};
	int ret;

	ret = fscache_begin_write_operation(&cres, cookie);
	if (ret)
		return ret;
	ret = cres.ops->prepare_write(&cres, &start, &len, upper, FILE_SIZE, false);
	mutex_lock(&answer_lock);
	data_start = start;
	data_len = len;
	mutex_unlock(&answer_lock);
	fscache_end_operation(&cres);
	return ret;
}

static int do_read(loff_t start, size_t len)
{
	struct netfs_cache_resources cres = {};
	unsigned long flags = 0;
	struct page *pages;
	size_t part = len;
	ktime_t begun;
	int ret;

	pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, get_order(len));
	if (!pages)
		return -ENOMEM;
	begun = ktime_get();
	ret = fscache_begin_read_operation(&cres, cookie);
	if (!ret) {
		/* Where the data is, as every read of a netfs begins. */
		if (cres.ops->prepare_ondemand_read(&cres, start, &part, FILE_SIZE, &flags, 0) !=
		    NETFS_READ_FROM_CACHE || part < len)
			ret = -ENODATA;
		else
			ret = move(&cres, start, len, pages, ITER_DEST);
		fscache_end_operation(&cres);
	}
	took(begun);
	if (!ret && memchr_inv(page_address(pages), STORED, len))
		ret = -EBADMSG;
	__free_pages(pages, get_order(len));
	return ret;
}

static int do_occupancy(loff_t start, size_t len, size_t granularity)
{
	struct netfs_cache_resources cres = {};
	int ret;

	ret = fscache_begin_read_operation(&cres, cookie);
	if (ret)
		return ret;
	mutex_lock(&answer_lock);
	ret = cres.ops->query_occupancy(&cres, start, len, granularity,
					&data_start, &data_len);
	mutex_unlock(&answer_lock);
	fscache_end_operation(&cres);
	return ret;
}

static int do_begin(void)
{
	int ret;

	if (is_going_on)
		return -EBUSY;
	ret = fscache_begin_read_operation(&going_on, cookie);
	is_going_on = !ret;
	return ret;
}

static int do_end(void)
{
	if (!is_going_on)
		return -EINVAL;
	is_going_on = false;
	fscache_end_operation(&going_on);
	return 0;
}

static int do_read_on(loff_t start, size_t len)
{
	struct transfer transfer = {};
	struct iov_iter iter;
	struct bio_vec bvec;
	struct page *pages;

	if (!is_going_on)
		return -EINVAL;
	pages = alloc_pages(GFP_KERNEL, get_order(len));
	if (!pages)
		return -ENOMEM;
	bvec_set_page(&bvec, pages, len, 0);
	iov_iter_bvec(&iter, ITER_DEST, &bvec, 1, len);
	init_completion(&transfer.done);
	going_on.ops->read(&going_on, start, &iter, NETFS_READ_HOLE_IGNORE, transferred,
			   &transfer);
	wait_for_completion(&transfer.done);
	__free_pages(pages, get_order(len));
	if (transfer.result < 0)
		return transfer.result;
	mutex_lock(&answer_lock);
	data_start = start;
	data_len = transfer.result;
	mutex_unlock(&answer_lock);
	return 0;
}

static int do_use(bool to_write)
{
	fscache_use_cookie(cookie, to_write);
	uses++;
	return 0;
}

static int do_unuse(void)
{
	if (!uses)
		return -EINVAL;
	uses--;
	fscache_unuse_cookie(cookie, NULL, NULL);
	return 0;
}

static int do_invalidate(void)
{
	fscache_invalidate(cookie, NULL, FILE_SIZE, 0);
	return 0;
}

static ssize_t control_write(struct file *file, const char __user *from,
			     size_t count, loff_t *pos)
{
	unsigned long long start;
	char line[64] = {};
	size_t len, more;
	int ret = -EINVAL;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, count))
		return -EFAULT;
	if (sscanf(line, "write %llu %zu", &start, &len) == 2)
		ret = do_write(start, len, true);
	else if (sscanf(line, "rewrite %llu %zu", &start, &len) == 2)
		ret = do_write(start, len, false);
	else if (sscanf(line, "prepare %llu %zu %zu", &start, &len, &more) == 3)
		ret = do_prepare(start, len, more);
	else if (sscanf(line, "read %llu %zu", &start, &len) == 2)
		ret = do_read(start, len);
	else if (sscanf(line, "occupancy %llu %zu %zu", &start, &len, &more) == 3)
		ret = do_occupancy(start, len, more);
	else if (sscanf(line, "read-on %llu %zu", &start, &len) == 2)
		ret = do_read_on(start, len);
	else if (sysfs_streq(line, "invalidate"))
		ret = do_invalidate();
	else if (sysfs_streq(line, "begin"))
		ret = do_begin();
	else if (sysfs_streq(line, "end"))
		ret = do_end();
	else if (sysfs_streq(line, "use"))
		ret = do_use(false);
	else if (sysfs_streq(line, "write-use"))
		ret = do_use(true);
	else if (sysfs_streq(line, "unuse"))
		ret = do_unuse();
	return ret ?: count;
}

static ssize_t control_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	char line[64];
	int len;

	mutex_lock(&answer_lock);
	len = scnprintf(line, sizeof(line), "%lld %zu %llu\n", data_start, data_len, spent);
	mutex_unlock(&answer_lock);
	return simple_read_from_buffer(to, count, pos, line, len);
}

static const struct file_operations control_ops = {
	.owner = THIS_MODULE,
	.write = control_write,
	.read = control_read,
};

static int __init netfs_caller_init(void)
{
	static const char key[] = "file";

	volume = fscache_acquire_volume("netfs_caller", NULL, NULL, 0);
	if (IS_ERR(volume))
		return PTR_ERR(volume);
	cookie = fscache_acquire_cookie(volume, 0, key, strlen(key), NULL, 0, FILE_SIZE);
	if (!cookie) {
		fscache_relinquish_volume(volume, NULL, false);
		return -ENOBUFS;
	}
	if (!idle)
		do_use(true);
	control = debugfs_create_file("netfs_caller", 0600, NULL, NULL, &control_ops);
	return 0;
}

static void __exit netfs_caller_exit(void)
{
	debugfs_remove(control);
	do_end();
	while (!do_unuse())
		;
	fscache_relinquish_cookie(cookie, false);
	fscache_relinquish_volume(volume, NULL, false);
}

module_init(netfs_caller_init);
module_exit(netfs_caller_exit);
MODULE_DESCRIPTION("Calls the operations of a cache that no netfs calls");
MODULE_LICENSE("GPL");
