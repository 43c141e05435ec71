/* SPDX-License-Identifier: BSD-2-Clause */
/* The Python face of libvswitch: `vswitch._ring`. Glue only; vswitch/ring.py is what programs use and describes it.
 *
 * Memory is mapped by a Mapping, which a Ring and every view of a frame hold: closing a ring gives its port up at once, but
 * memory that somebody still looks at stays mapped.
 *
 * A method may run other Python code: where it lets go of the GIL, in iterators and items it is given, in the garbage
 * collector. That code may close the ring, or use it. So a method first reads its arguments, all of them; then it is *in* the
 * mapping (enter, leave), which keeps the memory where it is; the last one out gives a port up that was closed meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

#include "libvswitch.h"

#define BATCH      256
#define LINGER_MAX 1000000 /* us; signals are not heard meanwhile */

typedef struct {
	PyObject_HEAD struct vsw_ring *ring;
	Py_ssize_t views;    /* memoryviews there are of it */
	Py_ssize_t users;    /* methods that are in it */
	uint64_t generation; /* of the memory: how often the ring has been reopened */
	int reopening;       /* the only user is reopen(), without the GIL: there is no memory */
	int closed;
} Mapping;

typedef struct {
	PyObject_HEAD Mapping *mapping; /* NULL: closed */
	PyObject *error;                /* the exception class to raise */
	uint32_t reserved;              /* slots given out by reserve() */
} Ring;

typedef struct {
	PyObject_HEAD Mapping *mapping;
	uint64_t generation; /* of the mapping, in which `data` is */
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
	view->generation = mapping->generation;
	view->data = data;
	view->size = (Py_ssize_t)size;
	view->readonly = readonly;
	memory = PyMemoryView_FromObject((PyObject *)view);
	Py_DECREF((PyObject *)view);
	return memory;
}

static int view_get(View *self, Py_buffer *buffer, int flags)
{
	int ret;

	if (self->generation != self->mapping->generation) {
		buffer->obj = NULL;
		PyErr_SetString(PyExc_BufferError, "the ring has been opened anew: this memory is gone");
		return -1;
	}
	ret = PyBuffer_FillInfo(buffer, (PyObject *)self, self->data, self->size, self->readonly, flags);
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
	PyObject *message =
		PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace"); /* others have a say in it */

	if (message)
		PyErr_SetObject(self->error, message);
	Py_XDECREF(message);
	return NULL;
}

static PyObject *raise_errno(Ring *self, int ret)
{
	if (ret == -ENOTCONN)
		return raise_error(self, "the other side has gone");
	return raise_error(self, strerror(-ret));
}

/* Begin to use a ring: until leave() its memory stays as it is. Return NULL with an exception where it cannot be used. */
static Mapping *enter(Ring *self)
{
	Mapping *mapping = self->mapping;

	if (!mapping) {
		raise_error(self, "the ring is closed");
		return NULL;
	}
	if (mapping->reopening) {
		raise_error(self, "the ring is being reopened");
		return NULL;
	}
	mapping->users++;
	return (Mapping *)Py_NewRef((PyObject *)mapping);
}

static void leave(Mapping *mapping)
{
	if (!--mapping->users && mapping->closed)
		vsw_ring_leave(mapping->ring);
	Py_DECREF((PyObject *)mapping);
}

/* Return `value` as a uint32_t, between 1 and `most`; also for one that is not a number. */
static uint32_t bounded(double value, uint32_t most)
{
	return value >= most ? most : value > 1 ? (uint32_t)value : 1;
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
	options.timeout_ms = bounded(timeout * 1e3, INT_MAX);
	options.linger_us = linger > 0 ? bounded(linger * 1e6, LINGER_MAX) : VSW_NO_LINGER;
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
		mapping->closed = 1;
		if (mapping->users)
			vsw_ring_interrupt(mapping->ring);
		else
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

/* Return what a method that let go of the GIL does: `ret`, -1 after a signal whose handler has
 * returned, or an exception.
 */
static PyObject *result(Ring *self, int closed, int ret)
{
	if (closed)
		return raise_error(self, "the ring is closed");
	if (ret == -EINTR)
		return PyErr_CheckSignals() ? NULL : PyLong_FromLong(-1);
	return ret < 0 ? raise_errno(self, ret) : PyLong_FromLong(ret);
}

/* Block all signals, in order to hear every one: Python's handlers for earlier ones have run when this returns, and those that
 * come from here on end the sleep, in which none is blocked. `before` is to be restored, also after a failure: -1 with a
 * handler's exception.
 */
static int block_signals(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
	return PyErr_CheckSignals();
}

static PyObject *ring_reopen(Ring *self, PyObject *args)
{
	char text[VSW_ERROR_SIZE] = "";
	PyThreadState *state;
	Mapping *mapping;
	sigset_t before;
	double timeout;
	int ret, closed;

	if (!PyArg_ParseTuple(args, "d:reopen", &timeout))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	if (block_signals(&before)) {
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		leave(mapping);
		return NULL;
	}
	if (mapping->views || mapping->users > 1) {
		if (mapping->views)
			PyErr_SetString(PyExc_BufferError, "views of frames are still held");
		else
			raise_error(self, "the ring is in use: it cannot be reopened");
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		leave(mapping);
		return NULL;
	}
	self->reserved = 0;
	mapping->generation++;
	mapping->reopening = 1;
	state = PyEval_SaveThread();
	ret = vsw_ring_preopen(mapping->ring, (int)bounded(timeout * 1e3, INT_MAX), &before, text);
	PyEval_RestoreThread(state);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	mapping->reopening = 0;
	closed = mapping->closed;
	leave(mapping);
	if (ret && ret != -EINTR && !closed)
		return raise_error(self, text[0] ? text : strerror(-ret));
	return result(self, closed, ret);
}

static PyObject *ring_fileno(Ring *self, PyObject *unused)
{
	Mapping *mapping = enter(self);
	int fd;

	(void)unused;
	if (!mapping)
		return NULL;
	fd = vsw_ring_fd(mapping->ring);
	leave(mapping);
	return fd < 0 ? raise_errno(self, -ENOTCONN) : PyLong_FromLong(fd);
}

static PyObject *ring_facts(Ring *self, PyObject *unused)
{
	Mapping *mapping = enter(self);
	const struct netmap_ring *tx;
	PyObject *facts;

	(void)unused;
	if (!mapping)
		return NULL;
	tx = vsw_ring_tx(mapping->ring, 0);
	facts = tx ? Py_BuildValue("III", vsw_ring_count(mapping->ring), tx->num_slots, tx->nr_buf_size)
		   : raise_errno(self, -ENOTCONN);
	leave(mapping);
	return facts;
}

/* --- sending --- */

/* Up to BATCH frames that are about to be sent, and what keeps their bytes where they are. */
struct batch {
	int n;
	struct iovec pieces[BATCH];
	Py_buffer buffers[BATCH]; /* obj NULL: of bytes, which need none */
};

static void batch_free(struct batch *batch)
{
	while (batch->n--)
		if (batch->buffers[batch->n].obj)
			PyBuffer_Release(&batch->buffers[batch->n]);
}

/* Find the bytes of the next items of a tuple, up to one that is no frame. Return 0, or -1 with an exception and nothing held. */
static int batch_fill(struct batch *batch, PyObject *frames, Py_ssize_t at, Py_ssize_t n)
{
	for (batch->n = 0; batch->n < BATCH && at < n; batch->n++, at++) {
		PyObject *item = PyTuple_GetItem(frames, at);
		struct iovec *piece = &batch->pieces[batch->n];
		Py_buffer *buffer = &batch->buffers[batch->n];

		buffer->obj = NULL;
		if (PyBytes_Check(item)) {
			*piece = (struct iovec){ PyBytes_AsString(item), (size_t)PyBytes_Size(item) };
			continue;
		}
		if (PyObject_GetBuffer(item, buffer, PyBUF_SIMPLE)) {
			if (batch->n && PyErr_ExceptionMatches(PyExc_Exception)) {
				PyErr_Clear(); /* the call that begins with it says what is wrong */
				break;
			}
			batch_free(batch);
			return -1;
		}
		*piece = (struct iovec){ buffer->buf, (size_t)buffer->len };
	}
	return 0;
}

/* Send a batch. Return how many of its frames there was room for, or -1 with an exception. */
static int batch_send(Ring *self, struct batch *batch)
{
	Mapping *mapping = enter(self);
	int ret;

	if (!mapping)
		return -1;
	self->reserved = 0;
	ret = vsw_ring_send(mapping->ring, batch->pieces, (unsigned)batch->n);
	leave(mapping);
	if (ret == -EMSGSIZE)
		PyErr_SetString(PyExc_ValueError, "a frame has 14 to 69632 bytes, in at most 64 slots");
	else if (ret < 0)
		raise_errno(self, ret);
	return ret < 0 ? -1 : ret;
}

static PyObject *ring_send(Ring *self, PyObject *argument)
{
	PyObject *frames = PySequence_Tuple(argument); /* ours: a list may change while we look at it */
	struct batch batch;
	Py_ssize_t n, sent = 0;
	int ret;

	if (!frames)
		return NULL;
	n = PyTuple_Size(frames);
	do {
		ret = batch_fill(&batch, frames, sent, n);
		if (ret)
			break;
		ret = batch_send(self, &batch);
		batch_free(&batch);
		if (ret > 0)
			sent += ret;
	} while (ret == BATCH && sent < n);
	Py_DECREF(frames);
	if (ret < 0 && sent && PyErr_ExceptionMatches(PyExc_Exception)) {
		PyErr_Clear(); /* what was sent is sent; the next call, which begins here, says what is wrong */
		ret = 0;
	}
	return ret < 0 ? NULL : PyLong_FromSsize_t(sent);
}

/* Views of up to `n` free buffers, NULL with an exception. */
static PyObject *reserve(Ring *self, Mapping *mapping, uint32_t n)
{
	struct netmap_ring *tx = vsw_ring_tx(mapping->ring, 0);
	uint32_t at, room;
	PyObject *list;

	if (!tx)
		return raise_errno(self, -ENOTCONN);
	vsw_ring_sync(mapping->ring, VSW_TX);
	room = nmr_distance(tx->head, tx->tail, tx->num_slots);
	if (n > room)
		n = room;
	at = tx->head;
	list = PyList_New((Py_ssize_t)n);
	for (unsigned i = 0; list && i < n; i++, at = nmr_next(at, tx->num_slots)) {
		PyObject *view = view_of(mapping, vsw_ring_buf(tx, tx->slot[at].buf_idx), tx->nr_buf_size, 0);

		if (!view || PyList_SetItem(list, (Py_ssize_t)i, view))
			Py_CLEAR(list);
	}
	self->reserved = list ? n : 0;
	return list;
}

static PyObject *ring_reserve(Ring *self, PyObject *args)
{
	unsigned int n;
	Mapping *mapping;
	PyObject *list;

	if (!PyArg_ParseTuple(args, "I:reserve", &n))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	list = reserve(self, mapping, n);
	leave(mapping);
	return list;
}

/* Read up to NMR_MAX_SLOTS lengths; one that is none becomes 0. Return how many, or -1 with an exception. */
static Py_ssize_t read_lengths(PyObject *argument, uint32_t *lengths)
{
	PyObject *items = PySequence_Tuple(argument);
	Py_ssize_t n = items ? PyTuple_Size(items) : -1;

	for (Py_ssize_t i = 0; i < n && i < NMR_MAX_SLOTS; i++) {
		unsigned long len = PyLong_AsUnsignedLong(PyTuple_GetItem(items, i));

		lengths[i] = len <= UINT16_MAX ? (uint32_t)len : 0;
		if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError))
			PyErr_Clear();
		else if (PyErr_Occurred())
			n = -1;
	}
	Py_XDECREF(items);
	return n;
}

/* Send the first `n` reserved buffers. Return 0, or -1 with an exception and nothing sent. */
static int commit(Ring *self, struct vsw_ring *ring, const uint32_t *lengths, Py_ssize_t n)
{
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);
	uint32_t at;

	if (!tx) {
		raise_errno(self, -ENOTCONN);
		return -1;
	}
	if (n > (Py_ssize_t)self->reserved) {
		PyErr_SetString(PyExc_ValueError, "more lengths than buffers were reserved");
		return -1;
	}
	for (Py_ssize_t i = 0; i < n; i++)
		if (lengths[i] < 14 || lengths[i] > tx->nr_buf_size) {
			PyErr_SetString(PyExc_ValueError, "a frame in one buffer has 14 bytes at least, and must fit");
			return -1;
		}
	at = tx->head;
	for (Py_ssize_t i = 0; i < n; i++, at = nmr_next(at, tx->num_slots))
		nmr_write_slot(&tx->slot[at], nmr_slot_word(tx->slot[at].buf_idx, (uint16_t)lengths[i], 0));
	tx->head = tx->cur = at;
	self->reserved = 0;
	vsw_ring_sync(ring, VSW_TX);
	return 0;
}

static PyObject *ring_commit(Ring *self, PyObject *argument)
{
	uint32_t lengths[NMR_MAX_SLOTS];
	Py_ssize_t n = read_lengths(argument, lengths);
	Mapping *mapping = n < 0 ? NULL : enter(self);
	int ret;

	if (!mapping)
		return NULL;
	ret = commit(self, mapping->ring, lengths, n);
	leave(mapping);
	return ret ? NULL : Py_NewRef(Py_None);
}

/* --- receiving --- */

static PyObject *receive(Ring *self, PyObject *args, int copy)
{
	struct iovec frames[BATCH];
	unsigned int limit = BATCH;
	Mapping *mapping;
	unsigned n;
	PyObject *list;

	if (!PyArg_ParseTuple(args, "|I", &limit))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	n = vsw_ring_receive(mapping->ring, frames, limit < BATCH ? limit : BATCH);
	list = PyList_New((Py_ssize_t)n);
	for (unsigned i = 0; list && i < n; i++) {
		PyObject *item = copy ? PyBytes_FromStringAndSize(frames[i].iov_base, (Py_ssize_t)frames[i].iov_len)
				      : view_of(mapping, frames[i].iov_base, frames[i].iov_len, 1);

		if (!item || PyList_SetItem(list, (Py_ssize_t)i, item))
			Py_CLEAR(list);
	}
	if (copy)
		vsw_ring_release(mapping->ring);
	leave(mapping);
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
	Mapping *mapping = enter(self);

	(void)unused;
	if (!mapping)
		return NULL;
	vsw_ring_release(mapping->ring);
	leave(mapping);
	Py_RETURN_NONE;
}

/* --- waiting --- */

static PyObject *ring_sync(Ring *self, PyObject *args)
{
	Mapping *mapping;
	int which, ret;

	if (!PyArg_ParseTuple(args, "i:sync", &which))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	ret = vsw_ring_sync(mapping->ring, which);
	leave(mapping);
	return ret ? raise_errno(self, ret) : Py_NewRef(Py_None);
}

static int wait_for(struct vsw_ring *ring, int which, int timeout_ms)
{
	PyThreadState *state;
	sigset_t before;
	int ret = -EINTR;

	if (!block_signals(&before)) {
		state = PyEval_SaveThread();
		ret = vsw_ring_pwait(ring, which, timeout_ms, &before);
		PyEval_RestoreThread(state);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret;
}

static PyObject *ring_wait(Ring *self, PyObject *args)
{
	Mapping *mapping;
	int which, timeout_ms, ret, closed;

	if (!PyArg_ParseTuple(args, "ii:wait", &which, &timeout_ms))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	ret = vsw_ring_wait(mapping->ring, which, 0);
	if (!ret && timeout_ms)
		ret = wait_for(mapping->ring, which, timeout_ms);
	closed = mapping->closed;
	leave(mapping);
	return PyErr_Occurred() ? NULL : result(self, closed, ret);
}

static PyObject *ring_arm(Ring *self, PyObject *args)
{
	Mapping *mapping;
	int which, ret;

	if (!PyArg_ParseTuple(args, "i:arm", &which))
		return NULL;
	mapping = enter(self);
	if (!mapping)
		return NULL;
	ret = vsw_ring_arm(mapping->ring, which);
	leave(mapping);
	return ret < 0 ? raise_errno(self, ret) : PyLong_FromLong(ret);
}

static PyObject *ring_disarm(Ring *self, PyObject *unused)
{
	Mapping *mapping = enter(self);
	int ret;

	(void)unused;
	if (!mapping)
		return NULL;
	ret = vsw_ring_disarm(mapping->ring);
	leave(mapping);
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
