/* SPDX-License-Identifier: BSD-2-Clause */
#include "netmap_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE  4096U
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static uint64_t ring_bytes(uint32_t slots)
{
	return round_up(sizeof(struct netmap_ring) + (uint64_t)slots * sizeof(struct netmap_slot), NMR_LINE);
}

static uint64_t nifp_bytes(uint32_t rings)
{
	return round_up(sizeof(struct netmap_if) + 2ULL * rings * sizeof(ptrdiff_t), NMR_LINE);
}

static bool in_bounds(const struct nmr_geometry *geometry)
{
	return geometry->rings >= 1 && geometry->rings <= NMR_MAX_RINGS && geometry->slots >= NMR_MIN_SLOTS &&
	       geometry->slots <= NMR_MAX_SLOTS && geometry->buf_size >= NMR_MIN_BUF &&
	       geometry->buf_size <= NMR_MAX_BUF && geometry->buf_size % NMR_LINE == 0 && geometry->n_halves >= 1 &&
	       geometry->n_halves <= 2;
}

/* Lay the memory out. The lines the application writes and those the fabric writes are on different pages. */
static struct nmr_header lay_out(const struct nmr_geometry *geometry)
{
	struct nmr_header header = {
		.magic = NMR_MAGIC,
		.version = NMR_VERSION,
		.rings = geometry->rings,
		.slots = geometry->slots,
		.buf_size = geometry->buf_size,
		.n_bufs = NMR_FIRST_BUF + 2 * geometry->rings * geometry->slots,
		.n_halves = geometry->n_halves,
	};
	uint64_t lines = 2ULL * geometry->rings * NMR_LINE;
	uint64_t at = PAGE;

	for (unsigned half = 0; half < geometry->n_halves; half++) {
		header.halves[half].atok_ofs = at;
		at = round_up(at + lines, PAGE);
		header.halves[half].ktoa_ofs = at;
		at = round_up(at + lines, PAGE);
		header.halves[half].nifp_ofs = at;
		at += nifp_bytes(geometry->rings) + 2ULL * geometry->rings * ring_bytes(geometry->slots);
		at = round_up(at, PAGE);
	}
	header.bufs_ofs = at;
	header.size = round_up(at + (uint64_t)header.n_bufs * geometry->buf_size, PAGE);
	return header;
}

struct netmap_ring *nmr_ring(const struct nmr_area *area, unsigned half, unsigned ring)
{
	const struct nmr_header *header = &area->header;

	return (struct netmap_ring *)(void *)(area->base + header->halves[half].nifp_ofs + nifp_bytes(header->rings) +
					      ring * ring_bytes(header->slots));
}

/* Buffers are handed out in order: to the first half's tx rings, then its rx rings. In a pipe the tx rings of one half
 * have those that the rx rings of the other have.
 */
static uint32_t first_buffer(const struct nmr_header *header, unsigned half, unsigned ring)
{
	unsigned row = half ? (ring + header->rings) % (2 * header->rings) : ring;

	return NMR_FIRST_BUF + row * header->slots;
}

static void fill_ring(const struct nmr_area *area, unsigned half, unsigned number)
{
	const struct nmr_header *header = &area->header;
	struct netmap_ring *ring = nmr_ring(area, half, number);
	bool tx = number < header->rings;
	struct netmap_ring filled = {
		.buf_ofs = (int64_t)(area->base + header->bufs_ofs - (uint8_t *)ring),
		.num_slots = header->slots,
		.nr_buf_size = header->buf_size,
		.ringid = (uint16_t)(number % header->rings),
		.dir = !tx,
		.tail = tx ? header->slots - 1 : 0,
	};

	memcpy((void *)ring, &filled, sizeof(filled));
	nmr_ktoa(area, half, number)->hwtail = filled.tail;
	for (uint32_t i = 0; i < header->slots; i++)
		ring->slot[i].buf_idx = first_buffer(header, half, number) + i;
}

static void fill_half(const struct nmr_area *area, unsigned half, const char *name)
{
	const struct nmr_header *header = &area->header;
	struct netmap_if *nifp = nmr_nifp(area, half);
	struct netmap_if filled = {
		.ni_version = NETMAP_API,
		.ni_tx_rings = header->rings,
		.ni_rx_rings = header->rings,
	};

	snprintf(filled.ni_name, sizeof(filled.ni_name), "%s", name);
	memcpy((void *)nifp, &filled, sizeof(filled));
	for (unsigned ring = 0; ring < 2 * header->rings; ring++) {
		ptrdiff_t offset = (uint8_t *)nmr_ring(area, half, ring) - (uint8_t *)nifp;

		memcpy((uint8_t *)nifp + sizeof(filled) + ring * sizeof(offset), &offset, sizeof(offset));
		fill_ring(area, half, ring);
	}
}

static int map_sized(int memfd, struct nmr_area *area)
{
	void *base = mmap(NULL, area->header.size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (base == MAP_FAILED)
		return -errno;
	area->base = base;
	return 0;
}

int nmr_create(const struct nmr_geometry *geometry, const char *name, uint64_t generation)
{
	struct nmr_area area = { 0 };
	int memfd, ret;

	if (!in_bounds(geometry))
		return -EINVAL;
	area.header = lay_out(geometry);
	area.header.generation = generation;
	memfd = memfd_create("vswitch-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0)
		return -errno;
	ret = ftruncate(memfd, (off_t)area.header.size) ? -errno : map_sized(memfd, &area);
	if (!ret) {
		memcpy(area.base, &area.header, sizeof(area.header));
		for (unsigned half = 0; half < geometry->n_halves; half++)
			fill_half(&area, half, name);
		nmr_unmap(&area);
		ret = fcntl(memfd, F_ADD_SEALS, SEALS) ? -errno : 0;
	}
	if (ret) {
		close(memfd);
		return ret;
	}
	return memfd;
}

int nmr_map(int memfd, struct nmr_area *area)
{
	struct nmr_header expected;
	struct nmr_geometry geometry;
	struct stat stat;
	int seals = fcntl(memfd, F_GET_SEALS);

	if (seals < 0)
		return errno == EINVAL ? -EPROTO : -errno;
	if ((seals & SEALS) != SEALS || pread(memfd, &area->header, sizeof(area->header), 0) != sizeof(area->header))
		return -EPROTO;
	geometry = (struct nmr_geometry){
		.rings = area->header.rings,
		.slots = area->header.slots,
		.buf_size = area->header.buf_size,
		.n_halves = area->header.n_halves,
	};
	if (!in_bounds(&geometry))
		return -EPROTO;
	expected = lay_out(&geometry);
	expected.generation = area->header.generation;
	if (memcmp(&expected, &area->header, sizeof(expected)) != 0)
		return -EPROTO;
	if (fstat(memfd, &stat))
		return -errno;
	if ((uint64_t)stat.st_size != expected.size)
		return -EPROTO;
	return map_sized(memfd, area);
}

void nmr_unmap(struct nmr_area *area)
{
	if (area->base)
		munmap(area->base, area->header.size);
	area->base = NULL;
}
