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
 *   ask START LEN                      where that operation is to read from
 *   use, write-use, unuse              the cookie, to read or to write
 *
 * A command fails as the operation does, and the kernel warns if a cache says twice of
 * one transfer that it is over.  The file reads as "START LEN NS": what was
 * answered to the last "prepare" or "occupancy", or what the last "read-on" has read,
 * and the time that the cache took for the last write or read.  To the last "ask", LEN
 * is 1 if it is from the server, and to be stored.
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
#include <linux/slab.h>
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

/* The operation that goes on, as a part of a request that is nowhere listed. */
static struct netfs_inode file;
static struct netfs_io_request request = { .inode = &file.inode };
static bool is_going_on;
#define going_on (request.cache_resources)

/* Of the last answer. */
static DEFINE_MUTEX(answer_lock);
static loff_t data_start;
static size_t data_len;
static u64 spent;

/*
 * One transfer.  It stays until the module goes, so that a cache that says twice that
 * it is over is found out.
 */
struct transfer {
	struct transfer *next;
	struct page *pages;
	unsigned int order;
	struct completion done;
	atomic_t ends;
	ssize_t result;
};

static struct transfer *transfers;
static DEFINE_MUTEX(transfers_lock);

static struct transfer *new_transfer(size_t len)
{
	struct transfer *transfer = kzalloc(sizeof(*transfer), GFP_KERNEL);

	if (!transfer)
		return NULL;
	transfer->order = get_order(len);
	transfer->pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, transfer->order);
	if (!transfer->pages) {
		kfree(transfer);
		return NULL;
	}
	init_completion(&transfer->done);
	mutex_lock(&transfers_lock);
	transfer->next = transfers;
	transfers = transfer;
	mutex_unlock(&transfers_lock);
	return transfer;
}

/* Nobody reads or writes its pages any more. */
static void give_pages_back(struct transfer *transfer)
{
	__free_pages(transfer->pages, transfer->order);
}

static void free_transfers(void)
{
	while (transfers) {
		struct transfer *transfer = transfers;

		transfers = transfer->next;
		kfree(transfer);
	}
}

static void transferred(void *priv, ssize_t result, bool was_async)
{
	struct transfer *transfer = priv;

	if (WARN_ON(atomic_inc_return(&transfer->ends) != 1))
		return;
	transfer->result = result;
	complete(&transfer->done);
}

/* Has one of the operations of a cache transfer all of the pages, and waits for that. */
static void move(struct transfer *transfer, struct netfs_cache_resources *cres,
		 loff_t start, size_t len, unsigned int direction)
{
	struct iov_iter iter;
	struct bio_vec bvec;

	bvec_set_page(&bvec, transfer->pages, len, 0);
	iov_iter_bvec(&iter, direction, &bvec, 1, len);
	if (direction == ITER_SOURCE)
		fscache_write(cres, start, &iter, transferred, transfer);
	else
		fscache_read(cres, start, &iter, NETFS_READ_HOLE_IGNORE, transferred,
			     transfer);
	wait_for_completion(&transfer->done);
}

/* It must have been all. */
static int moved_all(const struct transfer *transfer, size_t len)
{
	if (transfer->result < 0)
		return transfer->result;
	return transfer->result == len ? 0 : -EIO;
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
	struct transfer *transfer = new_transfer(round_up(len, PAGE_SIZE));
	struct netfs_cache_resources cres = {};
	ktime_t begun;
	int ret;

	if (!transfer)
		return -ENOMEM;
	memset(page_address(transfer->pages), STORED, PAGE_SIZE << transfer->order);
	begun = ktime_get();
	ret = fscache_begin_write_operation(&cres, cookie);
	if (!ret) {
		ret = cres.ops->prepare_write(&cres, &start, &len, len, FILE_SIZE, is_new);
		if (!ret) {
			move(transfer, &cres, start, len, ITER_SOURCE);
			ret = moved_all(transfer, len);
		}
		fscache_end_operation(&cres);
	}
	took(begun);
	give_pages_back(transfer);
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
	struct transfer *transfer = new_transfer(len);
	struct netfs_cache_resources cres = {};
	unsigned long flags = 0;
	size_t part = len;
	ktime_t begun;
	int ret;

	if (!transfer)
		return -ENOMEM;
	begun = ktime_get();
	ret = fscache_begin_read_operation(&cres, cookie);
	if (!ret) {
		/* Where the data is, as every read of a netfs begins. */
		if (cres.ops->prepare_ondemand_read(&cres, start, &part, FILE_SIZE, &flags, 0) !=
		    NETFS_READ_FROM_CACHE || part < len) {
			ret = -ENODATA;
		} else {
			move(transfer, &cres, start, len, ITER_DEST);
			ret = moved_all(transfer, len);
		}
		fscache_end_operation(&cres);
	}
	took(begun);
	if (!ret && memchr_inv(page_address(transfer->pages), STORED, len))
		ret = -EBADMSG;
	give_pages_back(transfer);
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

static int do_ask(loff_t start, size_t len)
{
	struct netfs_io_subrequest subreq = {
		.rreq	= &request,
		.start	= start,
		.len	= len,
	};

	if (!is_going_on)
		return -EINVAL;
	mutex_lock(&answer_lock);
	data_len = going_on.ops->prepare_read(&subreq, FILE_SIZE) ==
			NETFS_DOWNLOAD_FROM_SERVER &&
		   test_bit(NETFS_SREQ_COPY_TO_CACHE, &subreq.flags);
	mutex_unlock(&answer_lock);
	return 0;
}

static int do_read_on(loff_t start, size_t len)
{
	struct transfer *transfer;
	int ret = 0;

	if (!is_going_on)
		return -EINVAL;
	transfer = new_transfer(len);
	if (!transfer)
		return -ENOMEM;
	move(transfer, &going_on, start, len, ITER_DEST);
	give_pages_back(transfer);
	if (transfer->result < 0) {
		ret = transfer->result;
	} else {
		mutex_lock(&answer_lock);
		data_start = start;
		data_len = transfer->result;
		mutex_unlock(&answer_lock);
	}
	return ret;
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
	else if (sscanf(line, "ask %llu %zu", &start, &len) == 2)
		ret = do_ask(start, len);
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
	i_size_write(&file.inode, FILE_SIZE);
	file.remote_i_size = FILE_SIZE;
	file.zero_point = FILE_SIZE;
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
	free_transfers();
}

module_init(netfs_caller_init);
module_exit(netfs_caller_exit);
MODULE_DESCRIPTION("Calls the operations of a cache that no netfs calls");
MODULE_LICENSE("GPL");
