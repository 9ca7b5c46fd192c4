// SPDX-License-Identifier: GPL-2.0
/*
 * The C halves of subrequest.rs: what lies in netfs's requests, whose layout
 * differs between kernel versions.
 */
#include <linux/bio.h>
#include "shims.h"

void cfrs_open_read(struct netfs_io_subrequest *subreq, struct cfrs_read *parts)
{
	const struct netfs_io_request *req = subreq->rreq;

	*parts = (struct cfrs_read){
		.resources	= &subreq->rreq->cache_resources,
		.len		= &subreq->len,
		.flags		= &subreq->flags,
		.start		= subreq->start,
		.size_now	= i_size_read(req->inode),
		.zero_point	= READ_ONCE(netfs_inode(req->inode)->zero_point),
		.inode		= req->inode->i_ino,
		.is_first	= subreq->start == req->start,
	};
}

void cfrs_open_write(struct netfs_io_subrequest *subreq, struct cfrs_write *parts)
{
	struct netfs_io_request *req = subreq->rreq;

	parts->resources	= &req->cache_resources;
	parts->iter		= &subreq->io_iter;
	parts->len		= &subreq->len;
	parts->transferred	= &subreq->transferred;
	parts->start		= subreq->start;
	parts->file_size	= req->i_size;
	/* The stream tells of the subrequest built last, not of one retried. */
	parts->extendable	= test_bit(NETFS_SREQ_RETRYING, &subreq->flags) ? 0 :
		req->io_streams[subreq->stream_nr].submit_extendable_to;
	parts->is_copy		= !req->io_streams[0].avail &&
		!test_bit(NETFS_RREQ_UPLOAD_TO_SERVER, &req->flags);
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
