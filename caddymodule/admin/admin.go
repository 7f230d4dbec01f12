// Package admin is the admin API: accounts, users, keys, money, usage and records.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

const (
	// Prefix is what the paths of the admin API begin with.
	Prefix = "/sub2api/"
	// MaxAdminBody is the largest request body, in bytes.
	MaxAdminBody = 1 << 20
	// adminRetryAfter is when to ask again after a 503, in seconds.
	adminRetryAfter = "1"
)

// API is where an operator looks after accounts, users, keys and money. It works
// on the stores of the configs in force.
type API struct {
	// Runtimes finds the runtimes of the configs in force, and of one that is starting.
	Runtimes func() []*gateway.Runtime
	// Starting reports whether a config that is loaded is not in force yet.
	Starting func() bool

	once sync.Once
	made *http.ServeMux
}

// Error is why a call is refused.
type Error struct {
	Status int // of HTTP
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// route is a path of the admin API, below the prefix, as http.ServeMux has it, and what can
// be done there.
type route struct {
	path    string
	methods map[string]method
}

// method answers a call, or returns why not. It takes these parameters in the query,
// beside store.
type method struct {
	serve func(*call) error
	query []string
}

// FilterParameters select records, and what is summed up.
var FilterParameters = []string{"from", "to", "user", "key", "account", "group", "model"}

// RecordParameters are those of records alone, beside limit, after and format.
var RecordParameters = []string{"settled_from", "settled_to"}

var routes = []route{
	{"accounts", map[string]method{"GET": {serve: listAccounts}}},
	{"accounts/{name}/pause", map[string]method{"POST": {serve: actOnAccount(pauseAccount)}}},
	{"accounts/{name}/resume", map[string]method{"POST": {serve: actOnAccount(resumeAccount)}}},
	{"accounts/{name}/reset", map[string]method{"POST": {serve: actOnAccount(resetAccount)}}},
	{"users", map[string]method{"GET": {serve: listUsers}, "POST": {serve: addUser}}},
	{"users/{name}", map[string]method{"GET": {serve: showUser}, "PATCH": {serve: changeUser}, "DELETE": {serve: removeUser}}},
	{"users/{name}/credit", map[string]method{"POST": {serve: creditUser}}},
	{"users/{name}/keys", map[string]method{"GET": {serve: listKeys}, "POST": {serve: addKey}}},
	{"users/{name}/subscriptions/{group}", map[string]method{"PUT": {serve: subscribe}, "DELETE": {serve: unsubscribe}}},
	{"keys", map[string]method{"GET": {serve: listKeys}}},
	{"keys/{id}", map[string]method{"DELETE": {serve: revokeKey}}},
	{"usage", map[string]method{"GET": {showUsage, slices.Concat(FilterParameters, []string{"by", "format"})}}},
	{"records", map[string]method{"GET": {showRecords, slices.Concat(FilterParameters, RecordParameters, []string{"limit", "after", "format"})}}},
}

// call is one request to the admin API.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context
	query url.Values
	store *adminStore
}

// Serve answers a request to a path below Prefix, or returns an *Error. What is out of
// reach for now may be asked for again soon.
func (a *API) Serve(w http.ResponseWriter, r *http.Request) error {
	err := a.carryOut(w, r)
	if refusal, ok := errors.AsType[*Error](err); ok && refusal.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", adminRetryAfter)
	}
	return err
}

// answered is a response whose handler returns why it refuses.
type answered struct {
	http.ResponseWriter
	err error
}

// carryOut finds the route, and answers by it.
func (a *API) carryOut(w http.ResponseWriter, r *http.Request) error {
	if path.Clean(r.URL.Path) != r.URL.Path {
		return nothingHere() // a mux would send the client to another path
	}
	answer := &answered{ResponseWriter: w}
	a.mux().ServeHTTP(answer, r)
	return answer.err
}

func nothingHere() error {
	paths := config.NameList(routes, func(r route) string { return Prefix + r.path })
	return refuse(http.StatusNotFound, "there is nothing here; there are: %s", paths)
}

// mux makes the routes' handlers, once.
func (a *API) mux() *http.ServeMux {
	a.once.Do(func() {
		a.made = http.NewServeMux()
		handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
			a.made.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				answer := w.(*answered)
				answer.err = f(answer.ResponseWriter, r)
			})
		}
		handle("/", func(http.ResponseWriter, *http.Request) error { return nothingHere() })
		for _, route := range routes {
			handle(Prefix+route.path, func(w http.ResponseWriter, r *http.Request) error {
				method, ok := route.methods[r.Method]
				if !ok {
					allowed := strings.Join(slices.Sorted(maps.Keys(route.methods)), ", ")
					w.Header().Set("Allow", allowed)
					return refuse(http.StatusMethodNotAllowed, "%s is not for this path; use %s", r.Method, allowed)
				}
				return a.call(w, r, method)
			})
		}
	})
	return a.made
}

// call answers one request by a method.
func (a *API) call(w http.ResponseWriter, r *http.Request, method method) error {
	query, err := readQuery(r.URL.RawQuery, method.query)
	if err != nil {
		return err
	}
	rt, err := a.choose(query.Get("store"))
	if err != nil {
		return err
	}
	if !rt.Enter() {
		return refuse(http.StatusServiceUnavailable, "store %s: it is being closed", rt.Storage)
	}
	defer rt.Leave()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(rt.Context, cancel)()
	store, err := openAdminStore(ctx, rt)
	if err != nil {
		return storeRefusal(rt, err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return storeRefusal(rt, method.serve(&call{w, r, ctx, query, store}))
}

// readQuery reads a query that may hold these parameters, and store.
func readQuery(raw string, known []string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the query: %w", err)
	}
	known = append([]string{"store"}, known...)
	for name, values := range query {
		switch {
		case !slices.Contains(known, name):
			return nil, refuse(http.StatusBadRequest, "the query has %.80q, which is unknown here; there are: %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return nil, refuse(http.StatusBadRequest, "the query has %s %d times; keep one", name, len(values))
		}
	}
	return query, nil
}

// body reads the call's JSON. An empty body is that of an empty object.
func (c *call) body(into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, MaxAdminBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, err = decoder.Token(); err == nil {
			err = errors.New("it goes on after its end")
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, new(*http.MaxBytesError)):
		return refuse(http.StatusRequestEntityTooLarge, "the body is over %d bytes", MaxAdminBody)
	}
	return refuse(http.StatusBadRequest, "the body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

func (c *call) answer(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(append(body, '\n')) // whoever left needs no answer
	return nil
}

// refuse makes an error that tells the operator what is wrong.
func refuse(status int, format string, args ...any) error {
	return &Error{status, fmt.Errorf(format, args...)}
}

// storeRefusal makes the answer of what a store said.
func storeRefusal(rt *gateway.Runtime, err error) error {
	if err == nil {
		return nil
	}
	if refusal, ok := errors.AsType[*Error](err); ok {
		return refusal // whoever answers looks at the error itself, not at what it wraps
	}
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, billing.ErrUnknownUser), errors.Is(err, billing.ErrUnknownKey), errors.Is(err, billing.ErrNotSubscribed):
		status = http.StatusNotFound
	case errors.Is(err, billing.ErrUserExists), errors.Is(err, billing.ErrKeyExists):
		status = http.StatusConflict
	case errors.Is(err, scheduler.ErrUnavailable), errors.Is(err, scheduler.ErrClosed), errors.Is(err, billing.ErrUnwritable), errors.Is(err, billing.ErrClosed),
		rt.Context.Err() != nil, rt.Storage.Outage() != store.OutageFails:
		status = http.StatusServiceUnavailable
	}
	return refuse(status, "store %s: %w", rt.Storage, err)
}
