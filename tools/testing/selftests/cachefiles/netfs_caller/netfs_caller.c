// SPDX-License-Identifier: GPL-2.0
/*
 * A netfs without a file system: one cookie, and what a test says through debugfs
 * done with it.  It is for the operations of a cache that no netfs of this kernel
 * calls.  What must come of them is the test's affair.
 *
 *   write START LEN                    stores LEN bytes
 *   occupancy START LEN GRANULARITY    asks what is there
 *
 * A command fails as the operation does.  After "occupancy", the file reads as
 * "START LEN" of the answer.
 */

#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/fscache.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/uio.h>

/* What the cookie says that its file is. */
#define FILE_SIZE SZ_1M

static struct fscache_volume *volume;
static struct fscache_cookie *cookie;
static struct dentry *control;

/* Of the last answer. */
static DEFINE_MUTEX(answer_lock);
static loff_t data_start;
static size_t data_len;

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

static int store(struct netfs_cache_resources *cres, loff_t start, size_t len)
{
	struct transfer transfer = {};
	struct iov_iter iter;
	struct bio_vec bvec;
	struct page *pages;
	int ret;

	ret = cres->ops->prepare_write(cres, &start, &len, len, FILE_SIZE, true);
	if (ret)
		return ret;
	pages = alloc_pages(GFP_KERNEL, get_order(len));
	if (!pages)
		return -ENOMEM;
	memset(page_address(pages), 0x5a, len);
	bvec_set_page(&bvec, pages, len, 0);
	iov_iter_bvec(&iter, ITER_SOURCE, &bvec, 1, len);
	init_completion(&transfer.done);
	fscache_write(cres, start, &iter, transferred, &transfer);
	wait_for_completion(&transfer.done);
	__free_pages(pages, get_order(len));
	if (transfer.result < 0)
		return transfer.result;
	return transfer.result == len ? 0 : -EIO;
}

static int do_write(loff_t start, size_t len)
{
	struct netfs_cache_resources cres = {};
	int ret;

	ret = fscache_begin_write_operation(&cres, cookie);
	if (ret)
		return ret;
	ret = store(&cres, start, len);
	fscache_end_operation(&cres);
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

static ssize_t control_write(struct file *file, const char __user *from,
			     size_t count, loff_t *pos)
{
	unsigned long long start;
	size_t len, granularity;
	char line[64] = {};
	int ret = -EINVAL;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, count))
		return -EFAULT;
	if (sscanf(line, "write %llu %zu", &start, &len) == 2)
		ret = do_write(start, len);
	else if (sscanf(line, "occupancy %llu %zu %zu", &start, &len, &granularity) == 3)
		ret = do_occupancy(start, len, granularity);
	return ret ?: count;
}

static ssize_t control_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	char line[64];
	int len;

	mutex_lock(&answer_lock);
	len = scnprintf(line, sizeof(line), "%lld %zu\n", data_start, data_len);
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
	fscache_use_cookie(cookie, true);
	control = debugfs_create_file("netfs_caller", 0600, NULL, NULL, &control_ops);
	return 0;
}

static void __exit netfs_caller_exit(void)
{
	debugfs_remove(control);
	fscache_unuse_cookie(cookie, NULL, NULL);
	fscache_relinquish_cookie(cookie, false);
	fscache_relinquish_volume(volume, NULL, false);
}

module_init(netfs_caller_init);
module_exit(netfs_caller_exit);
MODULE_DESCRIPTION("Calls the operations of a cache that no netfs calls");
MODULE_LICENSE("GPL");
