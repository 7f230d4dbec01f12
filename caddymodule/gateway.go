package caddymodule

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

// contentSession says what tells the session of a request that names none.
type contentSession string

const (
	sessionByConversation contentSession = "conversation"
	sessionByCacheable    contentSession = "cacheable"
)

// injectSystem says which requests without a system prompt get one.
type injectSystem string

const (
	injectSystemOff   injectSystem = "off"
	injectSystemOAuth injectSystem = "oauth"
	injectSystemAll   injectSystem = "all"
)

// thinkingBlocks says what happens to thinking blocks of earlier turns.
type thinkingBlocks string

const (
	thinkingKeep  thinkingBlocks = "keep"
	thinkingStrip thinkingBlocks = "strip"
	thinkingRetry thinkingBlocks = "retry"
)

// settings is a config with everything resolved: defaults filled in, secrets
// read, names replaced by what they name. It never changes.
type settings struct {
	simple  bool
	storage store.Config
	zone    *time.Location // where days begin
	// encryptionKey seals the secrets in the store; nil = none.
	encryptionKey store.EncryptionKey

	accounts  []*upstream.Account
	scheduler scheduler.Settings
	groups    map[string]*group
	users     map[string]*user
	declared  []billing.User // the users, for Ledger.Declare
	keys      map[[sha256.Size]byte]*key

	contentSession contentSession
	attempts       int // at the same account again
	delay          time.Duration
	maxSwitches    int
	failoverOn400  bool

	maxBody        int64 // bytes
	injectSystem   injectSystem
	thinkingBlocks thinkingBlocks
	injectBeta     bool
	identity       bool
	logErrors      int64    // bytes of an upstream error's body
	allowHeader    []string // lower case; a trailing * matches a prefix
	wrongKeyLimit  int      // per minute and address; 0 = no limit
	passUnserved   bool     // API paths that are not served go to the next handler

	headerTimeout     time.Duration // of a stream
	answerTimeout     time.Duration // for all of an answer that is not streamed
	streamTimeout     time.Duration // for all of a stream; 0 = no limit
	firstEventTimeout time.Duration
	idleTimeout       time.Duration
	drain             time.Duration // after a client has left; 0 = cancel
	keepalive         time.Duration // between comments; 0 = never
	keepaliveAfter    time.Duration // silence before the first one

	prices      *billing.Prices
	defaultRate billing.Rate  // for keys without a group
	hold        string        // what is set aside
	holdWait    time.Duration // for money that others have set aside
	retention   time.Duration // of records; 0 = for ever
}

// group ties keys to accounts and to a price.
type group struct {
	name     string
	platform upstream.Platform
	rate     billing.Rate // what a user pays per upstream dollar; of a subscription 0, whose users pay nothing
	// subscription: the group has limits, and serves its subscribers alone.
	subscription bool
	limits       billing.Limits
}

// user is someone who may use the gateway.
type user struct {
	name        string
	concurrency int // 0 = no limit
	// unlimited: the config declares no balance, so that nobody pays where no
	// subscription does.
	unlimited bool
	// subscriptions are those of the config, by group; the zero time is no end.
	subscriptions map[string]time.Time
}

// key is a gateway key. The key itself is not kept.
type key struct {
	id     string // the first 12 hexadecimal digits of the digest
	user   *user
	groups []*group // in order of preference; empty = every account
	// models that it may ask for; a trailing * matches a prefix; empty = all.
	models []string
}

// The values of settings.hold: what is set aside.
const (
	holdOff      = "off"
	holdEstimate = "estimate"
	holdMax      = "max"
)

// gateway is one config at work. It never changes; requests in flight keep the
// one that they began with.
type gateway struct {
	*settings
	scheduler *scheduler.Scheduler
	runtime   *runtime
	start     start
	allow     anthropic.HeaderList
	logger    *slog.Logger
}

// newGateway puts a config to work. Nothing is opened before begin, or the first
// request.
func newGateway(settings *settings, rt *runtime, logger *slog.Logger) (*gateway, error) {
	sched, err := scheduler.New(settings.scheduler, rt.leases, logger)
	if err != nil {
		return nil, fmt.Errorf("scheduling: %w", err)
	}
	g := &gateway{settings: settings, scheduler: sched, runtime: rt, logger: logger}
	for _, name := range settings.allowHeader {
		g.allow = append(g.allow, http.CanonicalHeaderKey(name))
	}
	return g, nil
}

// begin is called when the config is in force: the store is opened and told of it, and
// what runs in the background goes by it.
func (g *gateway) begin(ctx context.Context) {
	g.runtime.logs.set(g.logger)
	g.runtime.store.Take(g.storage)
	if _, err := g.ledger(ctx); err != nil && !errors.Is(err, scheduler.ErrUnavailable) {
		g.logger.Error("the store can't be opened; requests are refused until it can", "error", err)
	}
	g.runtime.watch(g)
	g.runtime.workInBackground()
}

// giveUp is called when the config is no longer in force. Requests in flight keep it
// until they end.
func (g *gateway) giveUp() {
	g.runtime.unwatch(g)
	g.start.giveUp()
}

// serve answers the requests whose paths are the gateway's; false: it is not one of
// them, and was not answered.
func (g *gateway) serve(w http.ResponseWriter, r *http.Request) bool {
	path := cleanPath(r.URL.Path)
	apiPath, force := splitForce(path)
	found := findEndpoint(r.Method, apiPath)
	switch {
	case found != nil:
		g.answer(w, r, found, apiPath, force)
		return true
	case isAPIPath(path) && !g.passUnserved:
		answerUnserved(w, r, path)
		return true
	}
	return false
}

// answer answers a request to an endpoint. path is without forcePrefix, and force is
// what that forces.
func (g *gateway) answer(w http.ResponseWriter, r *http.Request, e *endpoint, path string, force upstream.Platform) {
	if !g.runtime.enter() {
		(&apiError{
			status: http.StatusServiceUnavailable, kind: overloadedError, retryAfter: shutdownRetryAfter,
			message: "the gateway is shutting down; try again",
		}).write(w, newRequestID())
		return
	}
	defer g.runtime.leave()
	x := newExchange(g, w, r, path, force)
	defer x.end()
	if r.Method != e.method {
		x.fail(&apiError{
			status: http.StatusMethodNotAllowed, kind: invalidRequestError, final: true,
			message: "method not allowed; use " + e.method,
			header:  http.Header{"Allow": {e.method}},
		})
		return
	}
	if x.authenticate() {
		e.serve(x)
	}
}
