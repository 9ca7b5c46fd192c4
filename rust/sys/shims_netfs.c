// SPDX-License-Identifier: GPL-2.0
/*
 * The C halves of subrequest.rs: what lies in netfs's requests, whose layout
 * differs between kernel versions.  Nothing here knows CacheFiles.
 */
#include <linux/bio.h>
#include "shims.h"

void cfrs_open_subreq(struct netfs_io_subrequest *subreq,
		      struct cfrs_subreq *parts)
{
	struct netfs_io_request *req = subreq->rreq;

	*parts = (struct cfrs_subreq){
		.resources	= &req->cache_resources,
		.iter		= &subreq->io_iter,
		.len		= &subreq->len,
		.transferred	= &subreq->transferred,
		.flags		= &subreq->flags,
		.start		= subreq->start,
		.file_size	= req->i_size,
		.size_now	= i_size_read(req->inode),
		.zero_point	= READ_ONCE(netfs_inode(req->inode)->zero_point),
		.inode		= req->inode->i_ino,
		.is_copy	= !req->io_streams[0].avail &&
				  !test_bit(NETFS_RREQ_UPLOAD_TO_SERVER, &req->flags),
	};
	/* The stream tells of the subrequest built last, not of one retried. */
	if (!test_bit(NETFS_SREQ_RETRYING, &subreq->flags))
		parts->extendable =
			req->io_streams[subreq->stream_nr].submit_extendable_to;
}

void cfrs_iov_iter_extend(struct iov_iter *iter, size_t bytes)
{
	iter->count += bytes;
}

struct netfs_cache_resources *cfrs_begin_write(struct netfs_io_subrequest *subreq)
{
	struct netfs_io_stream *stream =
		&subreq->rreq->io_streams[subreq->stream_nr];

	stream->sreq_max_len = MAX_RW_COUNT;
	stream->sreq_max_segs = BIO_MAX_VECS;
	return &subreq->rreq->cache_resources;
}

bool cfrs_upload_failed(const struct netfs_cache_resources *cres)
{
	const struct netfs_io_request *wreq =
		container_of_const(cres, struct netfs_io_request, cache_resources);
	const struct netfs_io_stream *upload = &wreq->io_streams[0];

	return upload->failed ||
	       (test_bit(NETFS_RREQ_UPLOAD_TO_SERVER, &wreq->flags) && !upload->avail);
}

void cfrs_refuse_prepare_write(struct netfs_io_subrequest *subreq)
{
	netfs_prepare_write_failed(subreq);
}
