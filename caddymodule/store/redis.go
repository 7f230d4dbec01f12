package store

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

func (s *Redis) CheckKey(ctx context.Context, key EncryptionKey) error {
	client := newRedisClient(s, func() *Access { return &s.Access })
	defer client.Close()
	link := s.newLink(client, slog.New(slog.DiscardHandler))
	defer link.Close()
	d := &redisDocuments{link: link, namespace: s.Namespace, sealer: key}
	if _, err := d.Load(ctx, checkDocuments, checkName); isKeyError(err) {
		return err
	}
	return nil
}

// Clash: user name, password and certificates are taken over; what else a config
// may say another time is built into what is open.
func (s *Redis) Clash(open Config) error {
	o := open.(*Redis) // their keys are the same
	var word string
	switch {
	case o.Refuse != s.Refuse:
		word = "on_outage"
	case o.Timeout != s.Timeout:
		word = "timeout"
	case o.Spool != s.Spool:
		word = "spool"
	case o.SentinelUsername != s.SentinelUsername || o.SentinelPassword != s.SentinelPassword:
		word = "the Sentinels' user name or password"
	case (o.Access.Encryption == nil) != (s.Access.Encryption == nil):
		word = "rediss"
	default:
		return s.Keeping.Clash(o.Keeping)
	}
	return clash(word)
}

func (s *Redis) Outage() Outage {
	if s.Refuse {
		return OutageRefuses
	}
	return OutageServes
}

func (s *Redis) newLink(client redis.UniversalClient, logger *slog.Logger) *redislink.Link {
	meanwhile := "requests are served with this node's share of the slots and the money last known, and records wait on disk"
	if s.Refuse {
		meanwhile = "requests are refused until it answers"
	}
	return redislink.New(client, redislink.Options{Namespace: s.Namespace, Timeout: s.Timeout, Meanwhile: meanwhile, Logger: logger})
}

func (s *Redis) Backend(logger *slog.Logger) Backend {
	b := &redisBackend{storage: s, logger: logger}
	b.access.Store(&s.Access)
	b.client = newRedisClient(s, b.access.Load)
	b.link = s.newLink(b.client, logger)
	options := redisstate.Options{Namespace: s.Namespace, Logger: logger}
	if !s.Refuse {
		options.Fallback = func(now func() time.Time) scheduler.State { return memstate.NewAt(now) }
	}
	b.slots = redisstate.New(b.link, options)
	return b
}

// redisBackend is a namespace in Redis at work. State, ledger and documents have
// one link to it.
type redisBackend struct {
	storage *Redis
	client  redis.UniversalClient
	access  atomic.Pointer[Access]
	link    *redislink.Link
	slots   *redisstate.State
	logger  *slog.Logger
}

func (b *redisBackend) State() scheduler.State { return b.slots }

func (b *redisBackend) Open(ctx context.Context, key EncryptionKey) (billing.Ledger, Documents, error) {
	d, err := b.Documents(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	return b.newLedger(), d, nil
}

func (b *redisBackend) newLedger() billing.Ledger {
	return redisledger.New(b.link, redisledger.Options{
		Namespace: b.storage.Namespace, Spool: b.storage.Spool, Sync: b.storage.Sync, Location: b.storage.Zone, Logger: b.logger,
	})
}

func (b *redisBackend) Documents(ctx context.Context, key EncryptionKey) (Documents, error) {
	d, err := openRedisDocuments(ctx, b.link, b.storage.Namespace, key)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (b *redisBackend) Take(newest Config) {
	if s, ok := newest.(*Redis); ok {
		b.access.Store(&s.Access)
	}
}

func (b *redisBackend) Down() error { return b.link.Down() }

func (b *redisBackend) Regained(f func(context.Context) error) (forget func()) {
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

func (b *redisBackend) Close() error {
	b.link.Close()
	return b.client.Close()
}
