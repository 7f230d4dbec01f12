// Package gateway is a request's way, from its gateway key to its record, and what
// outlives a config. It knows no Caddy.
package gateway

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

// ContentSession says what tells the session of a request that names none.
type ContentSession string

const (
	SessionByConversation ContentSession = "conversation"
	SessionByCacheable    ContentSession = "cacheable"
)

// InjectSystem says which requests without a system prompt get one.
type InjectSystem string

const (
	InjectSystemOff   InjectSystem = "off"
	InjectSystemOAuth InjectSystem = "oauth"
	InjectSystemAll   InjectSystem = "all"
)

// ThinkingBlocks says what happens to thinking blocks of earlier turns.
type ThinkingBlocks string

const (
	ThinkingKeep  ThinkingBlocks = "keep"
	ThinkingStrip ThinkingBlocks = "strip"
	ThinkingRetry ThinkingBlocks = "retry"
)

// Config is a config with everything resolved: defaults filled in, secrets
// read, names replaced by what they name. It never changes.
type Config struct {
	Simple  bool
	Storage store.Config
	Zone    *time.Location // where days begin
	// EncryptionKey seals the secrets in the store; nil = none.
	EncryptionKey store.EncryptionKey

	Accounts  []*upstream.Account
	Scheduler scheduler.Settings
	Groups    map[string]*Group
	Users     map[string]*User
	Declared  []billing.User // the users, for Ledger.Declare
	Keys      map[[sha256.Size]byte]*Key

	ContentSession ContentSession
	Attempts       int // at the same account again
	Delay          time.Duration
	MaxSwitches    int
	FailoverOn400  bool

	MaxBody        int64 // bytes
	InjectSystem   InjectSystem
	ThinkingBlocks ThinkingBlocks
	InjectBeta     bool
	Identity       bool
	LogErrors      int64    // bytes of an upstream error's body
	AllowHeader    []string // lower case; a trailing * matches a prefix
	WrongKeyLimit  int      // per minute and address; 0 = no limit
	PassUnserved   bool     // API paths that are not served go to the next handler

	HeaderTimeout     time.Duration // of a stream
	AnswerTimeout     time.Duration // for all of an answer that is not streamed
	StreamTimeout     time.Duration // for all of a stream; 0 = no limit
	FirstEventTimeout time.Duration
	IdleTimeout       time.Duration
	Drain             time.Duration // after a client has left; 0 = cancel
	Keepalive         time.Duration // between comments; 0 = never
	KeepaliveAfter    time.Duration // silence before the first one

	Prices      *billing.Prices
	DefaultRate billing.Rate // for keys without a group
	Hold        Hold
	HoldWait    time.Duration // for money that others have set aside
	Retention   time.Duration // of records; 0 = for ever
}

// Account is an upstream account of the config.
type Account = upstream.Account

// Group ties keys to accounts and to a price.
type Group struct {
	Name     string
	Platform upstream.Platform
	Rate     billing.Rate // what a user pays per upstream dollar; of a subscription 0, whose users pay nothing
	// Subscription: the group has limits, and serves its subscribers alone.
	Subscription bool
	Limits       billing.Limits
}

// User is someone who may use the gateway.
type User struct {
	Name        string
	Concurrency int // 0 = no limit
	// Unlimited: the config declares no balance, so that nobody pays where no
	// subscription does.
	Unlimited bool
	// Subscriptions are those of the config, by group; the zero time is no end.
	Subscriptions map[string]time.Time
}

// KeyIDDigits is how many hexadecimal digits of a key's digest are its id.
const KeyIDDigits = 12

// Key is a gateway key. The key itself is not kept.
type Key struct {
	ID     string // the first 12 hexadecimal digits of the digest
	User   *User
	Groups []*Group // in order of preference; empty = every account
	// Models that it may ask for; a trailing * matches a prefix; empty = all.
	Models []string
}

// Hold says what is set aside before a request goes upstream.
type Hold string

const (
	HoldOff      Hold = "off"
	HoldEstimate Hold = "estimate"
	HoldMax      Hold = "max"
)

// Gateway is one config at work. It never changes; requests in flight keep the
// one that they began with.
type Gateway struct {
	Config       *Config
	Scheduler    *scheduler.Scheduler
	runtime      *Runtime
	registration registration
	allow        anthropic.HeaderList
	logger       *slog.Logger
}

// New puts a config to work. Nothing is opened before begin, or the first
// request.
func New(settings *Config, rt *Runtime, logger *slog.Logger) (*Gateway, error) {
	sched, err := scheduler.New(settings.Scheduler, rt.leases, logger)
	if err != nil {
		return nil, fmt.Errorf("scheduling: %w", err)
	}
	g := &Gateway{Config: settings, Scheduler: sched, runtime: rt, logger: logger}
	for _, name := range settings.AllowHeader {
		g.allow = append(g.allow, http.CanonicalHeaderKey(name))
	}
	return g, nil
}

// Begin is called when the config is in force: the store is opened and told of it, and
// what runs in the background goes by it.
func (g *Gateway) Begin(ctx context.Context) {
	g.runtime.Logs.Set(g.logger)
	g.runtime.store.Take(g.Config.Storage)
	if _, err := g.Ledger(ctx); err != nil && !errors.Is(err, scheduler.ErrUnavailable) {
		g.logger.Error("the store can't be opened; requests are refused until it can", "error", err)
	}
	g.runtime.watch(g)
	g.runtime.workInBackground()
}

// GiveUp is called when the config is no longer in force. Requests in flight keep it
// until they end.
func (g *Gateway) GiveUp() {
	g.runtime.unwatch(g)
	g.registration.giveUp()
}

// Serve answers the requests whose paths are the gateway's; false: it is not one of
// them, and was not answered.
func (g *Gateway) Serve(w http.ResponseWriter, r *http.Request) bool {
	path := cleanPath(r.URL.Path)
	apiPath, force := splitForce(path)
	found := findEndpoint(r.Method, apiPath)
	switch {
	case found != nil:
		g.answer(w, r, found, apiPath, force)
		return true
	case isAPIPath(path) && !g.Config.PassUnserved:
		answerUnserved(w, r, path)
		return true
	}
	return false
}

// answer answers a request to an endpoint. path is without forcePrefix, and force is
// what that forces.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, e *endpoint, path string, force upstream.Platform) {
	if !g.runtime.Enter() {
		errEnded(errShutdown.why).write(w, newRequestID())
		return
	}
	defer g.runtime.Leave()
	x := newExchange(g, w, r, path, force)
	defer x.end()
	if r.Method != e.method {
		x.conclude(errMethod(e.method))
		return
	}
	err := x.authenticate()
	if err == nil {
		err = e.serve(x)
	}
	x.conclude(err)
}
