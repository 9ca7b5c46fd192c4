// SPDX-License-Identifier: GPL-2.0
/*
 * The C halves of rust/sys: macros and inlines as functions, and every
 * difference between kernel versions.  Of CacheFiles they know the module's
 * parameters and the names of what it makes.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>
#include <trace/events/fscache.h>
#include "shims.h"

/*
 * Module parameters.
 */
unsigned int cfrs_debug;
module_param_named(debug, cfrs_debug, uint, 0644);
MODULE_PARM_DESC(debug, "CacheFiles debugging mask");

/* The index of a name in this list is what Rust sees. */
static const char * const protocols[] = { "mainline", "v5" };
static unsigned int ondemand_protocol;

static int set_protocol(const char *val, const struct kernel_param *kp)
{
	int index = sysfs_match_string(protocols, val);

	if (index < 0) {
		pr_err("CacheFiles: ondemand_protocol is mainline or v5, not %s\n",
		       val);
		return index;
	}
	WRITE_ONCE(ondemand_protocol, index);
	return 0;
}

static int get_protocol(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", protocols[READ_ONCE(ondemand_protocol)]);
}

static const struct kernel_param_ops protocol_ops = {
	.set = set_protocol,
	.get = get_protocol,
};
module_param_cb(ondemand_protocol, &protocol_ops, NULL, 0644);
MODULE_PARM_DESC(ondemand_protocol,
		 "Protocol of a plain 'bind ondemand': mainline (default) or v5");

unsigned int cfrs_ondemand_protocol(void)
{
	return READ_ONCE(ondemand_protocol);
}

/*
 * What there is for as long as the module's code may run.
 */
struct workqueue_struct *cfrs_workers;
struct kmem_cache *cfrs_ios;

int cfrs_init(void)
{
	if (cfrs_ios)
		return -EBUSY;
	cfrs_ios = kmem_cache_create("cachefiles_io", CFRS_IO_SIZE, 0,
				     SLAB_NO_MERGE, NULL);
	if (!cfrs_ios)
		return -ENOMEM;
	/* As FS-Cache's own queue. */
	cfrs_workers = alloc_workqueue("cachefiles", WQ_UNBOUND | WQ_FREEZABLE, 0);
	if (cfrs_workers) {
		if (!cfrs_start_watching())
			return 0;
		destroy_workqueue(cfrs_workers);
	}
	kmem_cache_destroy(cfrs_ios);
	cfrs_ios = NULL;
	return -ENOMEM;
}

/*
 * Waits first until no task that was preempted inside the module's code, after
 * its last reference was put, can still be there.
 */
void cfrs_exit(void)
{
	/* A job may wait for a task that is in the module's code. */
	flush_workqueue(cfrs_workers);
	synchronize_rcu_tasks();
	synchronize_rcu();
	destroy_workqueue(cfrs_workers);
	cfrs_stop_watching();
	kmem_cache_destroy(cfrs_ios);
	cfrs_ios = NULL;
}

void cfrs_flush_workers(void)
{
	flush_workqueue(cfrs_workers);
}

/*
 * What is done at each interval, by a worker that stops with the machine.
 */
struct cfrs_periodic {
	struct delayed_work work;
	unsigned long interval;
	void (*call)(void *arg);
	void *arg;
};

static void queue_periodic(struct cfrs_periodic *periodic)
{
	queue_delayed_work(system_freezable_power_efficient_wq, &periodic->work,
			   periodic->interval);
}

static void do_periodic(struct work_struct *work)
{
	struct cfrs_periodic *periodic =
		container_of(work, struct cfrs_periodic, work.work);

	periodic->call(periodic->arg);
	queue_periodic(periodic);
}

struct cfrs_periodic *cfrs_start_periodic(unsigned int ms,
					  void (*call)(void *arg), void *arg)
{
	struct cfrs_periodic *periodic = kmalloc(sizeof(*periodic), GFP_KERNEL);

	if (!periodic)
		return NULL;
	INIT_DELAYED_WORK(&periodic->work, do_periodic);
	periodic->interval = msecs_to_jiffies(ms);
	periodic->call = call;
	periodic->arg = arg;
	queue_periodic(periodic);
	return periodic;
}

void cfrs_stop_periodic(struct cfrs_periodic *periodic)
{
	cancel_delayed_work_sync(&periodic->work);
	kfree(periodic);
}

/*
 * Atomics and waiting.
 */
void cfrs_set_bit(unsigned int nr, unsigned long *addr)
{
	set_bit(nr, addr);
}

void cfrs_clear_bit(unsigned int nr, unsigned long *addr)
{
	clear_bit(nr, addr);
}

bool cfrs_test_and_clear_bit(unsigned int nr, unsigned long *addr)
{
	return test_and_clear_bit(nr, addr);
}

void cfrs_init_completion(struct completion *done)
{
	init_completion(done);
}

void cfrs_init_waitqueue(struct wait_queue_head *wq)
{
	init_waitqueue_head(wq);
}

void cfrs_wake_up_all(struct wait_queue_head *wq)
{
	wake_up_all(wq);
}

void cfrs_poll_wait(struct file *file, struct wait_queue_head *wq,
		    struct poll_table_struct *table)
{
	poll_wait(file, wq, table);
}

bool cfrs_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(state, 5 * HZ, 50);

	return __ratelimit(&state);
}

bool cfrs_is_dying(void)
{
	return fatal_signal_pending(current);
}

/* Negative if the task is being killed, 0 if the time is over. */
long cfrs_wait_killable_ms(struct completion *done, unsigned int ms)
{
	return wait_for_completion_killable_timeout(done, msecs_to_jiffies(ms));
}

/*
 * XArray.
 */
void cfrs_xa_init(struct xarray *xa, bool from_one)
{
	xa_init_flags(xa, from_one ? XA_FLAGS_ALLOC1 : XA_FLAGS_ALLOC);
}

void cfrs_xa_lock(struct xarray *xa)
{
	xa_lock(xa);
}

void cfrs_xa_unlock(struct xarray *xa)
{
	xa_unlock(xa);
}

int cfrs_xa_reserve_cyclic(struct xarray *xa, u32 *id, u32 min, u32 max,
			   u32 *next)
{
	int ret = xa_alloc_cyclic(xa, id, NULL, XA_LIMIT(min, max), next,
				  GFP_KERNEL);

	return ret < 0 ? ret : 0;
}

int cfrs_xa_store_reserved(struct xarray *xa, unsigned long id, void *entry)
{
	return xa_err(xa_store(xa, id, entry, GFP_NOWAIT));
}

void *cfrs_xa_find(struct xarray *xa, unsigned long *id)
{
	return xa_find(xa, id, ULONG_MAX, XA_PRESENT);
}

/*
 * Credentials and security.
 */
const struct cred *cfrs_override_creds(const struct cred *new)
{
	return override_creds(new);
}

void cfrs_revert_creds(const struct cred *old)
{
	revert_creds(old);
}

void cfrs_put_cred(const struct cred *cred)
{
	put_cred(cred);
}

struct cred *cfrs_prepare_kernel_cred(void)
{
	return prepare_kernel_cred(current);
}

bool cfrs_capable_sys_admin(void)
{
	return capable(CAP_SYS_ADMIN);
}

int cfrs_secctx_to_secid(const char *ctx, u32 len, u32 *secid)
{
	return security_secctx_to_secid(ctx, len, secid);
}

/*
 * FS-Cache.
 */
void *cfrs_cookie_key(struct fscache_cookie *cookie)
{
	return fscache_get_key(cookie);
}

void cfrs_count_object(struct fscache_cache *cache)
{
	fscache_count_object(cache);
}

void cfrs_uncount_object(struct fscache_cache *cache)
{
	fscache_uncount_object(cache);
}

void cfrs_wait_for_objects(struct fscache_cache *cache)
{
	fscache_wait_for_objects(cache);
}

void cfrs_count_io(bool write)
{
	if (write)
		fscache_count_write();
	else
		fscache_count_read();
}

void cfrs_count_no_space(bool create)
{
	if (create)
		fscache_count_no_create_space();
	else
		fscache_count_no_write_space();
}

void cfrs_count_culled(void)
{
	fscache_count_culled();
}

void cfrs_count_dio_misfit(void)
{
	fscache_count_dio_misfit();
}

/*
 * Size, coherency data (aux_len bytes of it) and count of invalidations, as
 * they belong together: an invalidation changes them under this lock.
 */
void cfrs_cookie_snapshot(struct fscache_cookie *cookie, void *aux,
			  loff_t *size, unsigned int *invalidations)
{
	spin_lock(&cookie->lock);
	memcpy(aux, fscache_get_aux(cookie), cookie->aux_len);
	*size = cookie->object_size;
	*invalidations = cookie->inval_counter;
	spin_unlock(&cookie->lock);
}

/*
 * Have a cookie that is in use looked up, if no cache has it and there is one.
 * FS-Cache does so only for a new user: this is what its
 * __fscache_use_cookie() does then.
 */
void cfrs_cookie_look_up_again(struct fscache_cookie *cookie)
{
	struct fscache_volume *volume = cookie->volume;
	bool begin;

	/* The worker that has taken its object down may be about to say so. */
	wait_var_event(&cookie->state, READ_ONCE(cookie->state) !=
		       FSCACHE_COOKIE_STATE_WITHDRAWING);
	/* A cache that ends waits for this, or is seen to end. */
	atomic_inc(&volume->n_accesses);
	/* Read the state of the cache after that; it waits after changing it. */
	smp_mb__after_atomic();
	spin_lock(&cookie->lock);
	begin = READ_ONCE(volume->cache->state) == FSCACHE_CACHE_IS_ACTIVE &&
		cookie->state == FSCACHE_COOKIE_STATE_QUIESCENT &&
		atomic_read(&cookie->n_active) > 0;
	if (begin) {
		atomic_inc(&cookie->n_accesses);
		/* Pairs with fscache_cookie_state(). */
		smp_store_release(&cookie->state, FSCACHE_COOKIE_STATE_LOOKING_UP);
		set_bit(FSCACHE_COOKIE_IS_CACHING, &cookie->flags);
		set_bit(FSCACHE_COOKIE_HAS_BEEN_CACHED, &cookie->flags);
	}
	spin_unlock(&cookie->lock);
	if (!begin) {
		fscache_end_volume_access(volume, cookie, fscache_access_unlive);
		return;
	}
	fscache_get_cookie(cookie, fscache_cookie_get_use_work);
	if (!queue_work(fscache_wq, &cookie->work))
		fscache_put_cookie(cookie, fscache_cookie_put_over_queued);
}

/*
 * A volume of our own, for cfrs_newest_cookie().  While no cache is live, FS-Cache has
 * no cache make anything of it.
 */
struct fscache_volume *cfrs_acquire_volume(void)
{
	return fscache_acquire_volume("cachefiles,newest", NULL, NULL, 0) ?: ERR_PTR(-ENOMEM);
}

void cfrs_relinquish_volume(struct fscache_volume *volume)
{
	fscache_relinquish_volume(volume, NULL, false);
}

/*
 * The number of a cookie that is newer than every other.  FS-Cache numbers them in
 * their order and does not tell the last number, so one is made, and given back.
 */
int cfrs_newest_cookie(struct fscache_volume *volume, u32 *debug_id)
{
	static const char key[] = "newest";
	struct fscache_cookie *cookie;

	cookie = fscache_acquire_cookie(volume, 0, key, sizeof(key) - 1, NULL, 0, 0);
	if (!cookie)
		return -ENOMEM;
	*debug_id = cookie->debug_id;
	fscache_relinquish_cookie(cookie, false);
	return 0;
}

struct fscache_cookie *cfrs_get_cookie(struct fscache_cookie *cookie)
{
	return fscache_get_cookie(cookie, fscache_cookie_get_attach_object);
}

void cfrs_put_cookie(struct fscache_cookie *cookie)
{
	fscache_put_cookie(cookie, fscache_cookie_put_object);
}

void cfrs_end_io_access(struct fscache_cookie *cookie)
{
	fscache_end_cookie_access(cookie, fscache_access_io_end);
}

struct fscache_volume *cfrs_try_get_volume(struct fscache_volume *volume)
{
	return fscache_try_get_volume(volume, fscache_volume_get_withdraw);
}

void cfrs_put_volume(struct fscache_volume *volume)
{
	fscache_put_volume(volume, fscache_volume_put_withdraw);
}

void cfrs_pin_volume(struct fscache_volume *volume)
{
	atomic_inc(&volume->n_accesses);
}

void cfrs_call_terminated(netfs_io_terminated_t func, void *priv,
			  ssize_t result, bool was_async)
{
	if (func)
		func(priv, result, was_async);
}
