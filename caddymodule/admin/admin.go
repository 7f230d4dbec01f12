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
	"slices"
	"strings"

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

// adminRoute is a path of the admin API, below the prefix, and what can be done
// there. A * stands for one name.
type adminRoute struct {
	path    string
	methods map[string]adminMethod
}

// adminMethod answers a call, or returns why not. It takes these parameters in
// the query, beside store.
type adminMethod struct {
	serve func(*call) error
	query []string
}

var FilterParameters = []string{"from", "to", "user", "key", "account", "group", "model"}

// RecordParameters are those of records alone, beside limit, after and format.
var RecordParameters = []string{"settled_from", "settled_to"}

var adminRoutes = []adminRoute{
	{"accounts", map[string]adminMethod{"GET": {serve: listAccounts}}},
	{"accounts/*/pause", map[string]adminMethod{"POST": {serve: actOnAccount(pauseAccount)}}},
	{"accounts/*/resume", map[string]adminMethod{"POST": {serve: actOnAccount(resumeAccount)}}},
	{"accounts/*/reset", map[string]adminMethod{"POST": {serve: actOnAccount(resetAccount)}}},
	{"users", map[string]adminMethod{"GET": {serve: listUsers}, "POST": {serve: addUser}}},
	{"users/*", map[string]adminMethod{"GET": {serve: showUser}, "PATCH": {serve: changeUser}, "DELETE": {serve: removeUser}}},
	{"users/*/credit", map[string]adminMethod{"POST": {serve: creditUser}}},
	{"users/*/keys", map[string]adminMethod{"GET": {serve: listKeys}, "POST": {serve: addKey}}},
	{"users/*/subscriptions/*", map[string]adminMethod{"PUT": {serve: subscribe}, "DELETE": {serve: unsubscribe}}},
	{"keys", map[string]adminMethod{"GET": {serve: listKeys}}},
	{"keys/*", map[string]adminMethod{"DELETE": {serve: revokeKey}}},
	{"usage", map[string]adminMethod{"GET": {showUsage, slices.Concat(FilterParameters, []string{"by", "format"})}}},
	{"records", map[string]adminMethod{"GET": {showRecords, slices.Concat(FilterParameters, RecordParameters, []string{"limit", "after", "format"})}}},
}

// call is one request to the admin API.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context
	names []string // that stand in the path
	query url.Values
	store *adminStore
}

// Serve answers a request to a path below adminPrefix, or returns a *callError. What is out of reach for now may be asked for
// again soon.
func (a *API) Serve(w http.ResponseWriter, r *http.Request) error {
	err := a.carryOut(w, r)
	if refusal, ok := errors.AsType[*Error](err); ok && refusal.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", adminRetryAfter)
	}
	return err
}

func (a *API) carryOut(w http.ResponseWriter, r *http.Request) error {
	route, names, err := findAdminRoute(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	method, ok := route.methods[r.Method]
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(route.methods)), ", ")
		w.Header().Set("Allow", allowed)
		return refuse(http.StatusMethodNotAllowed, "%s is not for this path; use %s", r.Method, allowed)
	}
	query, err := adminQuery(r.URL.RawQuery, method.query)
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
	return storeRefusal(rt, method.serve(&call{w, r, ctx, names, query, store}))
}

// findAdminRoute finds the route of a path, and the names in it.
func findAdminRoute(escaped string) (adminRoute, []string, error) {
	parts := strings.Split(strings.TrimPrefix(escaped, Prefix), "/")
	for i, part := range parts {
		parts[i], _ = url.PathUnescape(part) // it was escaped well
	}
	for _, route := range adminRoutes {
		if names, ok := route.match(parts); ok {
			return route, names, nil
		}
	}
	paths := config.NameList(adminRoutes, func(r adminRoute) string { return Prefix + r.path })
	return adminRoute{}, nil, refuse(http.StatusNotFound, "there is nothing here; there are: %s", paths)
}

func (route adminRoute) match(parts []string) (names []string, ok bool) {
	words := strings.Split(route.path, "/")
	if len(words) != len(parts) {
		return nil, false
	}
	for i, word := range words {
		switch {
		case word == "*" && parts[i] != "":
			names = append(names, parts[i])
		case word != parts[i]:
			return nil, false
		}
	}
	return names, true
}

// adminQuery reads a query that may hold these parameters, and store.
func adminQuery(raw string, known []string) (url.Values, error) {
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
