/* SPDX-License-Identifier: BSD-2-Clause */
/* The Python face of libvswitch: `vswitch._ring`. Glue only; vswitch/ring.py is what programs use and describes it.
 *
 * Memory is mapped by a Mapping, which a Ring and every view of a frame hold: closing a ring gives its port up at once, but
 * memory that somebody still looks at stays mapped.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>

#include "libvswitch.h"

#define BATCH 256

typedef struct {
	PyObject_HEAD struct vsw_ring *ring;
	Py_ssize_t views;
} Mapping;

typedef struct {
	PyObject_HEAD Mapping *mapping; /* NULL: closed */
	PyObject *error;                /* the exception class to raise */
	uint32_t reserved;              /* slots given out by reserve() */
} Ring;

typedef struct {
	PyObject_HEAD Mapping *mapping;
	uint8_t *data;
	Py_ssize_t size;
	int readonly;
} View;

static PyTypeObject *mapping_type, *view_type; /* one interpreter: the process's */

static void mapping_dealloc(Mapping *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);

	vsw_ring_close(self->ring);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

static void *allocate(PyTypeObject *type)
{
	return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

/* --- views --- */

static PyObject *view_of(Mapping *mapping, void *data, size_t size, int readonly)
{
	View *view = allocate(view_type);
	PyObject *memory;

	if (!view)
		return NULL;
	view->mapping = (Mapping *)Py_NewRef((PyObject *)mapping);
	view->data = data;
	view->size = (Py_ssize_t)size;
	view->readonly = readonly;
	memory = PyMemoryView_FromObject((PyObject *)view);
	Py_DECREF((PyObject *)view);
	return memory;
}

static int view_get(View *self, Py_buffer *buffer, int flags)
{
	int ret = PyBuffer_FillInfo(buffer, (PyObject *)self, self->data, self->size, self->readonly, flags);

	if (!ret)
		self->mapping->views++;
	return ret;
}

static void view_release(View *self, Py_buffer *buffer)
{
	(void)buffer;
	self->mapping->views--;
}

static void view_dealloc(View *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);

	Py_DECREF((PyObject *)self->mapping);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

/* --- life --- */

static PyObject *raise_error(Ring *self, const char *text)
{
	PyErr_SetString(self->error, text);
	return NULL;
}

static PyObject *raise_errno(Ring *self, int ret)
{
	if (ret == -ENOTCONN)
		return raise_error(self, "the other side has gone");
	return raise_error(self, strerror(-ret));
}

static struct vsw_ring *open_ring(Ring *self)
{
	if (self->mapping)
		return self->mapping->ring;
	raise_error(self, "the ring is closed");
	return NULL;
}

static PyObject *ring_create(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "name", "fd", "rings", "slots", "buf_size", "timeout", "linger", "error", NULL };
	struct vsw_ring_options options = { 0 };
	char text[VSW_ERROR_SIZE] = "";
	const char *name = NULL;
	double timeout = 5, linger = 50e-6;
	PyThreadState *state;
	PyObject *error;
	Mapping *mapping;
	Ring *self;
	int fd = -1;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "ziIIIddO:Ring", names, &name, &fd, &options.rings,
					 &options.slots, &options.buf_size, &timeout, &linger, &error))
		return NULL;
	options.timeout_ms = timeout > 0 && timeout < 1e6 ? (uint32_t)(timeout * 1e3) + 1 : 1;
	options.linger_us = linger > 0 && linger < 1 ? (uint32_t)(linger * 1e6) + 1 : VSW_NO_LINGER;
	self = allocate(type);
	mapping = allocate(mapping_type);
	if (!self || !mapping) {
		Py_XDECREF((PyObject *)self);
		Py_XDECREF((PyObject *)mapping);
		return NULL;
	}
	self->error = Py_NewRef(error);
	self->mapping = mapping;
	state = PyEval_SaveThread();
	mapping->ring = name ? vsw_ring_open(name, &options, text) : vsw_ring_adopt(fd, &options, text);
	PyEval_RestoreThread(state);
	if (!mapping->ring) {
		raise_error(self, text);
		Py_DECREF((PyObject *)self);
		return NULL;
	}
	return (PyObject *)self;
}

static PyObject *ring_close(Ring *self, PyObject *unused)
{
	Mapping *mapping = self->mapping;

	(void)unused;
	self->mapping = NULL;
	if (mapping) {
		vsw_ring_leave(mapping->ring);
		Py_DECREF((PyObject *)mapping);
	}
	Py_RETURN_NONE;
}

static void ring_dealloc(Ring *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);

	Py_XDECREF(ring_close(self, NULL));
	Py_XDECREF(self->error);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

static PyObject *ring_reopen(Ring *self, PyObject *args)
{
	struct vsw_ring *ring = open_ring(self);
	char text[VSW_ERROR_SIZE] = "";
	PyThreadState *state;
	double timeout;
	int ret;

	if (!ring || !PyArg_ParseTuple(args, "d:reopen", &timeout))
		return NULL;
	if (self->mapping->views) {
		PyErr_SetString(PyExc_BufferError, "views of frames are still held");
		return NULL;
	}
	self->reserved = 0;
	state = PyEval_SaveThread();
	ret = vsw_ring_reopen(ring, timeout > 0 && timeout < 1e6 ? (int)(timeout * 1e3) : 0, text);
	PyEval_RestoreThread(state);
	if (ret)
		return raise_error(self, text[0] ? text : strerror(-ret));
	Py_RETURN_NONE;
}

static PyObject *ring_fileno(Ring *self, PyObject *unused)
{
	struct vsw_ring *ring = open_ring(self);

	(void)unused;
	return ring ? PyLong_FromLong(vsw_ring_fd(ring)) : NULL;
}

static PyObject *ring_facts(Ring *self, PyObject *unused)
{
	struct vsw_ring *ring = open_ring(self);
	const struct netmap_ring *tx = ring ? vsw_ring_tx(ring, 0) : NULL;

	(void)unused;
	if (!ring)
		return NULL;
	if (!tx)
		return raise_errno(self, -ENOTCONN);
	return Py_BuildValue("III", vsw_ring_count(ring), tx->num_slots, tx->nr_buf_size);
}

/* --- sending --- */

/* Point `pieces` at the bytes of up to BATCH items from `at` on. Return how many, -1 with an exception. */
static int gather(PyObject *frames, Py_ssize_t at, Py_ssize_t n, struct iovec *pieces, Py_buffer *buffers)
{
	int count = 0;

	for (; count < BATCH && at < n; count++, at++) {
		PyObject *item = PyList_Check(frames) ? PyList_GetItem(frames, at) : PyTuple_GetItem(frames, at);

		buffers[count].obj = NULL;
		if (item && PyBytes_Check(item)) {
			pieces[count].iov_base = PyBytes_AsString(item);
			pieces[count].iov_len = (size_t)PyBytes_Size(item);
			continue;
		}
		if (!item || PyObject_GetBuffer(item, &buffers[count], PyBUF_SIMPLE)) {
			while (count--)
				if (buffers[count].obj)
					PyBuffer_Release(&buffers[count]);
			return -1;
		}
		pieces[count] = (struct iovec){ buffers[count].buf, (size_t)buffers[count].len };
	}
	return count;
}

static PyObject *ring_send(Ring *self, PyObject *argument)
{
	struct vsw_ring *ring = open_ring(self);
	struct iovec pieces[BATCH];
	Py_buffer buffers[BATCH];
	PyObject *frames;
	Py_ssize_t n, sent = 0;
	int count, ret = 0;

	if (!ring)
		return NULL;
	frames = PyList_Check(argument) || PyTuple_Check(argument) ? Py_NewRef(argument) : PySequence_List(argument);
	if (!frames)
		return NULL;
	self->reserved = 0;
	n = PySequence_Size(frames);
	do {
		count = gather(frames, sent, n, pieces, buffers);
		if (count < 0) {
			Py_DECREF(frames);
			return NULL;
		}
		ret = vsw_ring_send(ring, pieces, (unsigned)count);
		for (int i = 0; i < count; i++)
			if (buffers[i].obj)
				PyBuffer_Release(&buffers[i]);
		if (ret > 0)
			sent += ret;
	} while (ret == BATCH && sent < n);
	Py_DECREF(frames);
	if (ret == -EMSGSIZE && !sent) {
		PyErr_SetString(PyExc_ValueError, "a frame has 14 to 69632 bytes, in at most 64 slots");
		return NULL;
	}
	return ret < 0 && !sent ? raise_errno(self, ret) : PyLong_FromSsize_t(sent);
}

static PyObject *ring_reserve(Ring *self, PyObject *args)
{
	struct vsw_ring *ring = open_ring(self);
	struct netmap_ring *tx;
	unsigned int n;
	uint32_t at, room;
	PyObject *list;

	if (!ring || !PyArg_ParseTuple(args, "I:reserve", &n))
		return NULL;
	tx = vsw_ring_tx(ring, 0);
	if (!tx)
		return raise_errno(self, -ENOTCONN);
	vsw_ring_sync(ring, VSW_TX);
	room = nmr_distance(tx->head, tx->tail, tx->num_slots);
	if (n > room)
		n = room;
	at = tx->head;
	list = PyList_New((Py_ssize_t)n);
	for (unsigned i = 0; list && i < n; i++, at = nmr_next(at, tx->num_slots)) {
		PyObject *view = view_of(self->mapping, vsw_ring_buf(tx, tx->slot[at].buf_idx), tx->nr_buf_size, 0);

		if (!view || PyList_SetItem(list, (Py_ssize_t)i, view))
			Py_CLEAR(list);
	}
	self->reserved = list ? n : 0;
	return list;
}

static PyObject *ring_commit(Ring *self, PyObject *lengths)
{
	struct vsw_ring *ring = open_ring(self);
	struct netmap_ring *tx = ring ? vsw_ring_tx(ring, 0) : NULL;
	Py_ssize_t n = PySequence_Size(lengths);
	uint32_t at;

	if (!ring || n < 0)
		return NULL;
	if (!tx)
		return raise_errno(self, -ENOTCONN);
	if (n > (Py_ssize_t)self->reserved) {
		PyErr_SetString(PyExc_ValueError, "more lengths than buffers were reserved");
		return NULL;
	}
	at = tx->head;
	for (Py_ssize_t i = 0; i < n; i++, at = nmr_next(at, tx->num_slots)) {
		PyObject *item = PySequence_GetItem(lengths, i);
		unsigned long len = item ? PyLong_AsUnsignedLong(item) : 0;

		Py_XDECREF(item);
		if (PyErr_Occurred())
			return NULL;
		if (len < 14 || len > tx->nr_buf_size || len > UINT16_MAX) {
			PyErr_SetString(PyExc_ValueError, "a frame in one buffer has 14 bytes at least, and must fit");
			return NULL;
		}
		nmr_write_slot(&tx->slot[at], nmr_slot_word(tx->slot[at].buf_idx, (uint16_t)len, 0));
	}
	tx->head = tx->cur = at;
	self->reserved = 0;
	vsw_ring_sync(ring, VSW_TX);
	Py_RETURN_NONE;
}

/* --- receiving --- */

static PyObject *receive(Ring *self, PyObject *args, int copy)
{
	struct vsw_ring *ring = open_ring(self);
	struct iovec frames[BATCH];
	unsigned int limit = BATCH;
	unsigned n;
	PyObject *list;

	if (!ring || !PyArg_ParseTuple(args, "|I", &limit))
		return NULL;
	n = vsw_ring_receive(ring, frames, limit < BATCH ? limit : BATCH);
	list = PyList_New((Py_ssize_t)n);
	for (unsigned i = 0; list && i < n; i++) {
		PyObject *item = copy ? PyBytes_FromStringAndSize(frames[i].iov_base, (Py_ssize_t)frames[i].iov_len)
				      : view_of(self->mapping, frames[i].iov_base, frames[i].iov_len, 1);

		if (!item || PyList_SetItem(list, (Py_ssize_t)i, item))
			Py_CLEAR(list);
	}
	if (copy)
		vsw_ring_release(ring);
	return list;
}

static PyObject *ring_receive(Ring *self, PyObject *args)
{
	return receive(self, args, 1);
}

static PyObject *ring_borrow(Ring *self, PyObject *args)
{
	return receive(self, args, 0);
}

static PyObject *ring_release(Ring *self, PyObject *unused)
{
	struct vsw_ring *ring = open_ring(self);

	(void)unused;
	if (!ring)
		return NULL;
	vsw_ring_release(ring);
	Py_RETURN_NONE;
}

/* --- waiting --- */

static PyObject *ring_sync(Ring *self, PyObject *args)
{
	struct vsw_ring *ring = open_ring(self);
	int which;

	if (!ring || !PyArg_ParseTuple(args, "i:sync", &which))
		return NULL;
	vsw_ring_sync(ring, which);
	Py_RETURN_NONE;
}

static PyObject *ring_wait(Ring *self, PyObject *args)
{
	struct vsw_ring *ring = open_ring(self);
	PyThreadState *state;
	int which, timeout_ms, ret;

	if (!ring || !PyArg_ParseTuple(args, "ii:wait", &which, &timeout_ms))
		return NULL;
	state = PyEval_SaveThread();
	ret = vsw_ring_wait(ring, which, timeout_ms);
	PyEval_RestoreThread(state);
	if (ret == -EINTR)
		return PyErr_CheckSignals() ? NULL : PyLong_FromLong(-1);
	return ret < 0 ? raise_errno(self, ret) : PyLong_FromLong(ret);
}

static PyObject *ring_arm(Ring *self, PyObject *args)
{
	struct vsw_ring *ring = open_ring(self);
	int which, ret;

	if (!ring || !PyArg_ParseTuple(args, "i:arm", &which))
		return NULL;
	ret = vsw_ring_arm(ring, which);
	return ret < 0 ? raise_errno(self, ret) : PyLong_FromLong(ret);
}

static PyObject *ring_disarm(Ring *self, PyObject *unused)
{
	struct vsw_ring *ring = open_ring(self);
	int ret;

	(void)unused;
	if (!ring)
		return NULL;
	ret = vsw_ring_disarm(ring);
	return ret ? raise_errno(self, ret) : Py_NewRef(Py_None);
}

/* --- the fabric's side --- */

static PyObject *create(PyObject *module, PyObject *args)
{
	struct nmr_geometry geometry;
	unsigned long long generation;
	const char *name;
	int fd;

	(void)module;
	if (!PyArg_ParseTuple(args, "sIIIIK:create", &name, &geometry.rings, &geometry.slots, &geometry.buf_size,
			      &geometry.n_halves, &generation))
		return NULL;
	fd = nmr_create(&geometry, name, generation);
	if (fd == -EINVAL)
		return PyErr_Format(
			PyExc_ValueError,
			"a ring has 1..%d ring pairs of %d..%d slots and buffers of %d..%d bytes, a multiple "
			"of %d",
			NMR_MAX_RINGS, NMR_MIN_SLOTS, NMR_MAX_SLOTS, NMR_MIN_BUF, NMR_MAX_BUF, NMR_LINE);
	if (fd < 0) {
		errno = -fd;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	return PyLong_FromLong(fd);
}

/* --- the module --- */

#define METHOD(name, flags) { #name, (PyCFunction)(void (*)(void))ring_##name, flags, NULL }

static PyMethodDef ring_methods[] = {
	METHOD(close, METH_NOARGS),   METHOD(reopen, METH_VARARGS),  METHOD(fileno, METH_NOARGS),
	METHOD(facts, METH_NOARGS),   METHOD(send, METH_O),          METHOD(reserve, METH_VARARGS),
	METHOD(commit, METH_O),       METHOD(receive, METH_VARARGS), METHOD(borrow, METH_VARARGS),
	METHOD(release, METH_NOARGS), METHOD(sync, METH_VARARGS),    METHOD(wait, METH_VARARGS),
	METHOD(arm, METH_VARARGS),    METHOD(disarm, METH_NOARGS),   { NULL, NULL, 0, NULL },
};

static PyType_Slot ring_slots[] = {
	{ Py_tp_doc, (void *)"An open ring." },
	{ Py_tp_new, (void *)ring_create },
	{ Py_tp_dealloc, (void *)ring_dealloc },
	{ Py_tp_methods, ring_methods },
	{ 0, NULL },
};

static PyType_Slot mapping_slots[] = {
	{ Py_tp_dealloc, (void *)mapping_dealloc },
	{ 0, NULL },
};

static PyType_Slot view_slots[] = {
	{ Py_tp_dealloc, (void *)view_dealloc },
	{ Py_bf_getbuffer, (void *)view_get },
	{ Py_bf_releasebuffer, (void *)view_release },
	{ 0, NULL },
};

#define SPEC(type_name, struct_name, type_slots, type_flags)                                                           \
	{ .name = "vswitch._ring." type_name,                                                                          \
	  .basicsize = sizeof(struct_name),                                                                            \
	  .flags = Py_TPFLAGS_DEFAULT | (type_flags),                                                                  \
	  .slots = type_slots }

static PyType_Spec ring_spec = SPEC("Ring", Ring, ring_slots, 0);
static PyType_Spec mapping_spec = SPEC("Mapping", Mapping, mapping_slots, Py_TPFLAGS_DISALLOW_INSTANTIATION);
static PyType_Spec view_spec = SPEC("View", View, view_slots, Py_TPFLAGS_DISALLOW_INSTANTIATION);

static int ring_exec(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &ring_spec, NULL);
	int ret = type ? PyModule_AddObjectRef(module, "Ring", type) : -1;

	Py_XDECREF(type);
	mapping_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &mapping_spec, NULL);
	view_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &view_spec, NULL);
	return ret || !mapping_type || !view_type ? -1 : 0;
}

static PyMethodDef module_methods[] = {
	{ "create", create, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, (void *)ring_exec },
	{ 0, NULL },
};

static struct PyModuleDef ring_module = {
	PyModuleDef_HEAD_INIT,       .m_name = "_ring",       .m_doc = "Rings: the C part of vswitch.ring.",
	.m_methods = module_methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__ring(void)
{
	return PyModuleDef_Init(&ring_module);
}
