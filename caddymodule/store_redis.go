package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/scheduler/redisstate"
)

func (s *redisStorage) checkKey(ctx context.Context, key sealer) error {
	client := newRedisClient(s, func() *redisAccess { return &s.access })
	defer client.Close()
	link := s.newLink(client, slog.New(slog.DiscardHandler))
	defer link.Close()
	d := &redisDocuments{link: link, namespace: s.namespace, sealer: key}
	if _, err := d.load(ctx, checkDocuments, checkName); isKeyError(err) {
		return err
	}
	return nil
}

// clash: user name, password and certificates are taken over; what else a config
// may say another time is built into what is open.
func (s *redisStorage) clash(open storage) error {
	o := open.(*redisStorage) // their keys are the same
	var word string
	switch {
	case o.refuse != s.refuse:
		word = "on_outage"
	case o.timeout != s.timeout:
		word = "timeout"
	case o.spool != s.spool:
		word = "spool"
	case o.sentinelUsername != s.sentinelUsername || o.sentinelPassword != s.sentinelPassword:
		word = "the Sentinels' user name or password"
	case (o.access.encryption == nil) != (s.access.encryption == nil):
		word = "rediss"
	default:
		return s.keeping.clash(o.keeping)
	}
	return clash(word)
}

func (s *redisStorage) outage() outage {
	if s.refuse {
		return outageRefuses
	}
	return outageServes
}

func (s *redisStorage) newLink(client redis.UniversalClient, logger *slog.Logger) *redislink.Link {
	meanwhile := "requests are served with this node's share of the slots and the money last known, and records wait on disk"
	if s.refuse {
		meanwhile = "requests are refused until it answers"
	}
	return redislink.New(client, redislink.Options{Namespace: s.namespace, Timeout: s.timeout, Meanwhile: meanwhile, Logger: logger})
}

func (s *redisStorage) backend(logger *slog.Logger) backend {
	b := &redisBackend{storage: s, logger: logger}
	b.access.Store(&s.access)
	b.client = newRedisClient(s, b.access.Load)
	b.link = s.newLink(b.client, logger)
	options := redisstate.Options{Namespace: s.namespace, Logger: logger}
	if !s.refuse {
		options.Fallback = func(now func() time.Time) scheduler.State { return memstate.NewAt(now) }
	}
	b.slots = redisstate.New(b.link, options)
	return b
}

// redisBackend is a namespace in Redis at work. State, ledger and documents have
// one link to it.
type redisBackend struct {
	storage *redisStorage
	client  redis.UniversalClient
	access  atomic.Pointer[redisAccess]
	link    *redislink.Link
	slots   *redisstate.State
	logger  *slog.Logger
}

func (b *redisBackend) state() scheduler.State { return b.slots }

func (b *redisBackend) open(ctx context.Context, key sealer) (billing.Ledger, documents, error) {
	d, err := b.documents(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	return b.newLedger(), d, nil
}

func (b *redisBackend) newLedger() billing.Ledger {
	return redisledger.New(b.link, redisledger.Options{
		Namespace: b.storage.namespace, Spool: b.storage.spool, Sync: b.storage.sync, Location: b.storage.zone, Logger: b.logger,
	})
}

func (b *redisBackend) documents(ctx context.Context, key sealer) (documents, error) {
	d, err := openRedisDocuments(ctx, b.link, b.storage.namespace, key)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (b *redisBackend) take(newest storage) {
	if s, ok := newest.(*redisStorage); ok {
		b.access.Store(&s.access)
	}
}

func (b *redisBackend) down() error { return b.link.Down() }

func (b *redisBackend) regained(f func(context.Context) error) (forget func()) {
	m := &afterOutage{f}
	b.link.Join(m)
	return func() { b.link.Leave(m) }
}

// afterOutage has something done before Redis counts as back.
type afterOutage struct{ do func(context.Context) error }

// Lost implements redislink.Member.
func (*afterOutage) Lost() {}

// Regain implements redislink.Member. What is not for want of Redis does not keep
// others from it.
func (a *afterOutage) Regain(ctx context.Context) error {
	var outage *redislink.Outage
	if err := a.do(ctx); errors.As(err, &outage) {
		return outage
	}
	return nil
}

func (b *redisBackend) close() error {
	b.link.Close()
	return b.client.Close()
}
