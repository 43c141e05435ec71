/* SPDX-License-Identifier: BSD-2-Clause */
/* The Python face of the engine: `vswitch.fabric.core`. Glue only; what it offers is described in core.pyi.
 *
 * Each method packs its arguments into a struct, has the loop run one function on it with the GIL released, and makes
 * Python objects of what that left in the struct. Only the loop touches ports and switches.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine.h"
#include "pause.h"
#include "switch.h"

typedef struct {
	PyObject_HEAD struct engine *engine;
} EngineObject;

static void call(struct engine *engine, void (*run)(struct engine *engine, void *arg), void *arg)
{
	PyThreadState *state = PyEval_SaveThread();

	vsw_engine_call(engine, run, arg);
	PyEval_RestoreThread(state);
}

static struct engine *running_engine(EngineObject *self)
{
	if (!self->engine)
		PyErr_SetString(PyExc_ValueError, "the engine is closed");
	return self->engine;
}

static PyObject *raise_errno(int ret)
{
	errno = -ret;
	return PyErr_SetFromErrno(PyExc_OSError);
}

/* --- life --- */

static PyObject *engine_create(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { NULL };
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	EngineObject *self;
	int ret;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Engine", names))
		return NULL;
	self = (EngineObject *)allocate(type, 0);
	if (!self)
		return NULL;
	ret = vsw_engine_new(&self->engine);
	if (!ret)
		ret = vsw_engine_start(self->engine);
	if (ret) {
		Py_DECREF(self);
		return raise_errno(ret);
	}
	return (PyObject *)self;
}

static void end_engine(EngineObject *self)
{
	struct engine *engine = self->engine;
	PyThreadState *state;

	self->engine = NULL;
	if (!engine)
		return;
	state = PyEval_SaveThread();
	vsw_engine_free(engine);
	PyEval_RestoreThread(state);
}

static void engine_dealloc(EngineObject *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	end_engine(self);
	release(self);
	Py_DECREF(type);
}

static PyObject *engine_close(EngineObject *self, PyObject *unused)
{
	(void)unused;
	end_engine(self);
	Py_RETURN_NONE;
}

static PyObject *engine_fileno(EngineObject *self, PyObject *unused)
{
	(void)unused;
	return running_engine(self) ? PyLong_FromLong(self->engine->event_fd) : NULL;
}

/* --- switches --- */

struct add_switch {
	bool hub;
	uint64_t ageing;
	uint32_t fdb_limit;
	int ret;
	uint32_t id;
};

static void run_add_switch(struct engine *engine, void *arg)
{
	struct add_switch *request = arg;
	struct vsw_switch *sw;

	request->ret = vsw_switch_new(engine, request->hub, request->ageing, request->fdb_limit, &sw);
	if (!request->ret)
		request->id = sw->id;
}

static PyObject *engine_add_switch(EngineObject *self, PyObject *args)
{
	struct add_switch request;
	int hub;
	double ageing;
	unsigned int fdb_limit;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "pdI:add_switch", &hub, &ageing, &fdb_limit))
		return NULL;
	if (!(ageing >= 0) || fdb_limit > 1U << 24) {
		PyErr_SetString(PyExc_ValueError, "ageing must not be negative, fdb_limit not over 16777216");
		return NULL;
	}
	request = (struct add_switch){
		.hub = hub,
		.ageing = ageing < 1e9 ? (uint64_t)(ageing * 1e9) : UINT64_MAX,
		.fdb_limit = fdb_limit,
	};
	call(self->engine, run_add_switch, &request);
	return request.ret ? raise_errno(request.ret) : PyLong_FromUnsignedLong(request.id);
}

struct by_id {
	uint32_t id;
	bool found;
};

static void run_remove_switch(struct engine *engine, void *arg)
{
	struct by_id *request = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, request->id);

	request->found = sw;
	if (sw)
		vsw_switch_free(sw);
}

static void run_remove_port(struct engine *engine, void *arg)
{
	struct by_id *request = arg;
	struct port *port = vsw_engine_port(engine, request->id);

	request->found = port;
	if (port)
		vsw_port_free(port);
}

static PyObject *remove_by_id(EngineObject *self, PyObject *args, void (*run)(struct engine *engine, void *arg))
{
	struct by_id request = { 0 };
	unsigned int id;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "I", &id))
		return NULL;
	request.id = id;
	call(self->engine, run, &request);
	if (!request.found) {
		PyErr_SetNone(PyExc_KeyError);
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyObject *engine_remove_switch(EngineObject *self, PyObject *args)
{
	return remove_by_id(self, args, run_remove_switch);
}

static PyObject *engine_remove_port(EngineObject *self, PyObject *args)
{
	return remove_by_id(self, args, run_remove_port);
}

/* --- ports --- */

struct add_port {
	uint32_t switch_id;
	const struct port_ops *ops;
	int fds[PORT_MAX_FDS];
	unsigned n_fds;
	int ret;
	uint32_t id;
};

static void run_add_port(struct engine *engine, void *arg)
{
	struct add_port *request = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, request->switch_id);
	struct port *port;

	if (!sw) {
		request->ret = -ENOENT;
		for (unsigned i = 0; i < request->n_fds; i++)
			close(request->fds[i]);
		return;
	}
	request->ret = vsw_port_new(sw, request->ops, request->fds, request->n_fds, &port);
	if (!request->ret)
		request->id = port->id;
}

static PyObject *engine_add_port(EngineObject *self, PyObject *args)
{
	struct add_port request = { 0 };
	unsigned int switch_id;
	const char *type;
	PyObject *fds;
	Py_ssize_t n;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "IsO!:add_port", &switch_id, &type, &PyList_Type, &fds))
		return NULL;
	request.switch_id = switch_id;
	request.ops = vsw_port_ops_find(type);
	if (!request.ops)
		return PyErr_Format(PyExc_ValueError, "unknown port type '%s'", type);
	n = PyList_Size(fds);
	if (n != (Py_ssize_t)request.ops->n_fds)
		return PyErr_Format(PyExc_ValueError, "a %s port takes %u descriptors, not %zd", type,
				    request.ops->n_fds, n);
	for (Py_ssize_t i = 0; i < n; i++) {
		long fd = PyLong_AsLong(PyList_GetItem(fds, i));

		if (fd < 0 || fd > INT_MAX) {
			if (!PyErr_Occurred())
				PyErr_SetString(PyExc_ValueError, "not a descriptor");
			return NULL;
		}
		request.fds[request.n_fds++] = (int)fd;
	}
	call(self->engine, run_add_port, &request);
	return request.ret ? raise_errno(request.ret) : PyLong_FromUnsignedLong(request.id);
}

/* --- reading out --- */

/* Copies of all ports' counters; `copies` grows in the loop. */
struct snapshot {
	struct port *copies;
	size_t n;
	int ret;
};

static void run_stats(struct engine *engine, void *arg)
{
	struct snapshot *snapshot = arg;

	snapshot->copies = calloc(engine->n_ports + 1, sizeof(struct port));
	if (!snapshot->copies) {
		snapshot->ret = -ENOMEM;
		return;
	}
	for (uint32_t i = 0; i < engine->n_ports; i++)
		if (engine->ports[i])
			snapshot->copies[snapshot->n++] = *engine->ports[i];
}

static void run_events(struct engine *engine, void *arg)
{
	struct snapshot *snapshot = arg;
	struct port *port;
	uint64_t count;

	if (read(engine->event_fd, &count, sizeof(count)) < 0)
		return;
	snapshot->copies = calloc(engine->n_ports + 1, sizeof(struct port));
	if (!snapshot->copies) {
		snapshot->ret = -ENOMEM;
		return;
	}
	while ((port = vsw_engine_next_ended(engine)))
		snapshot->copies[snapshot->n++] = *port;
}

static PyObject *port_row(const struct port *port)
{
	PyObject *drops = PyDict_New();

	if (!drops)
		return NULL;
	for (unsigned i = 0; i < NUM_DROPS; i++) {
		PyObject *count;
		int ret;

		if (!port->drops[i])
			continue;
		count = PyLong_FromUnsignedLongLong(port->drops[i]);
		ret = count ? PyDict_SetItemString(drops, vsw_drop_names[i], count) : -1;
		Py_XDECREF(count);
		if (ret) {
			Py_DECREF(drops);
			return NULL;
		}
	}
	return Py_BuildValue("IsssKKKKKKN", port->id, port->ops->name, vsw_port_state_names[port->state], port->reason,
			     (unsigned long long)port->rx_frames, (unsigned long long)port->rx_bytes,
			     (unsigned long long)port->tx_frames, (unsigned long long)port->tx_bytes,
			     (unsigned long long)port->unlearnt, (unsigned long long)port->pauses, drops);
}

static PyObject *event_row(const struct port *port)
{
	return Py_BuildValue("Iss", port->id, vsw_port_state_names[port->state], port->reason);
}

static PyObject *port_list(struct snapshot *snapshot, PyObject *(*make_row)(const struct port *port))
{
	PyObject *list = snapshot->ret ? raise_errno(snapshot->ret) : PyList_New(0);

	for (size_t i = 0; list && i < snapshot->n; i++) {
		PyObject *row = make_row(&snapshot->copies[i]);

		if (!row || PyList_Append(list, row))
			Py_CLEAR(list);
		Py_XDECREF(row);
	}
	free(snapshot->copies);
	return list;
}

static PyObject *engine_stats(EngineObject *self, PyObject *unused)
{
	struct snapshot snapshot = { 0 };

	(void)unused;
	if (!running_engine(self))
		return NULL;
	call(self->engine, run_stats, &snapshot);
	return port_list(&snapshot, port_row);
}

static PyObject *engine_events(EngineObject *self, PyObject *unused)
{
	struct snapshot snapshot = { 0 };

	(void)unused;
	if (!running_engine(self))
		return NULL;
	call(self->engine, run_events, &snapshot);
	return port_list(&snapshot, event_row);
}

struct fdb_copy {
	uint32_t switch_id;
	struct {
		uint64_t key, age; /* ns */
		uint32_t port;
	} *rows;
	size_t n;
	int ret;
};

static void run_fdb(struct engine *engine, void *arg)
{
	struct fdb_copy *copy = arg;
	struct vsw_switch *sw = vsw_engine_switch(engine, copy->switch_id);

	if (!sw) {
		copy->ret = -ENOENT;
		return;
	}
	vsw_fdb_age(&sw->fdb, engine->now);
	copy->rows = calloc(sw->fdb.used + 1, sizeof(*copy->rows));
	if (!copy->rows) {
		copy->ret = -ENOMEM;
		return;
	}
	for (uint32_t i = 0; i < sw->fdb.n_slots; i++) {
		const struct fdb_entry *entry = &sw->fdb.slots[i];

		if (!entry->port)
			continue;
		copy->rows[copy->n].key = entry->key;
		copy->rows[copy->n].age = engine->now - entry->seen;
		copy->rows[copy->n++].port = entry->port->id;
	}
}

static PyObject *engine_fdb(EngineObject *self, PyObject *args)
{
	struct fdb_copy copy = { 0 };
	unsigned int switch_id;
	PyObject *list;

	if (!running_engine(self) || !PyArg_ParseTuple(args, "I:fdb", &switch_id))
		return NULL;
	copy.switch_id = switch_id;
	call(self->engine, run_fdb, &copy);
	list = copy.ret ? raise_errno(copy.ret) : PyList_New(0);
	for (size_t i = 0; list && i < copy.n; i++) {
		PyObject *row = Py_BuildValue("KId", (unsigned long long)copy.rows[i].key, copy.rows[i].port,
					      (double)copy.rows[i].age / 1e9);

		if (!row || PyList_Append(list, row))
			Py_CLEAR(list);
		Py_XDECREF(row);
	}
	free(copy.rows);
	return list;
}

/* --- the module --- */

#define METHOD(name, flags) { #name, (PyCFunction)(void (*)(void))engine_##name, flags, NULL }

static PyMethodDef engine_methods[] = {
	METHOD(fileno, METH_NOARGS),      METHOD(close, METH_NOARGS),
	METHOD(add_switch, METH_VARARGS), METHOD(remove_switch, METH_VARARGS),
	METHOD(add_port, METH_VARARGS),   METHOD(remove_port, METH_VARARGS),
	METHOD(stats, METH_NOARGS),       METHOD(events, METH_NOARGS),
	METHOD(fdb, METH_VARARGS),        { NULL, NULL, 0, NULL },
};

static PyType_Slot engine_slots[] = {
	{ Py_tp_doc, (void *)"One frame-moving thread and its switches and ports." },
	{ Py_tp_new, (void *)engine_create },
	{ Py_tp_dealloc, (void *)engine_dealloc },
	{ Py_tp_methods, engine_methods },
	{ 0, NULL },
};

static PyType_Spec engine_spec = {
	.name = "vswitch.fabric.core.Engine",
	.basicsize = sizeof(EngineObject),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = engine_slots,
};

static int add_names(PyObject *module, const char *attribute, const char *const *names, Py_ssize_t n)
{
	PyObject *tuple = PyTuple_New(n);
	int ret;

	for (Py_ssize_t i = 0; tuple && i < n; i++) {
		PyObject *name = PyUnicode_FromString(names[i]);

		if (!name || PyTuple_SetItem(tuple, i, name))
			Py_CLEAR(tuple);
	}
	ret = tuple ? PyModule_AddObjectRef(module, attribute, tuple) : -1;
	Py_XDECREF(tuple);
	return ret;
}

static int core_exec(PyObject *module)
{
	const char *types[16];
	Py_ssize_t n_types = 0;
	PyObject *type = PyType_FromModuleAndSpec(module, &engine_spec, NULL);
	int ret = type ? PyModule_AddObjectRef(module, "Engine", type) : -1;

	Py_XDECREF(type);
	while (vsw_port_types[n_types] && n_types < 16) {
		types[n_types] = vsw_port_types[n_types]->name;
		n_types++;
	}
	if (!ret)
		ret = add_names(module, "PORT_TYPES", types, n_types);
	if (!ret)
		ret = add_names(module, "DROP_REASONS", vsw_drop_names, NUM_DROPS);
	return ret;
}

static PyModuleDef_Slot core_slots[] = {
	{ Py_mod_exec, (void *)core_exec },
	{ 0, NULL },
};

static struct PyModuleDef core_module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "core",
	.m_doc = "The C engine that moves frames.",
	.m_slots = core_slots,
};

PyMODINIT_FUNC PyInit_core(void)
{
	return PyModuleDef_Init(&core_module);
}
