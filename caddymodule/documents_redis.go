package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisDocuments keeps documents in Redis: a hash for each kind, name to
// content. All who share the store have the same.
type redisDocuments struct {
	client    redis.UniversalClient
	namespace string
	timeout   time.Duration // of one command
	sealer    sealer

	mu     sync.Mutex
	proven bool // the key is the store's
}

// openRedisDocuments opens the documents of a store. Redis may be out of reach;
// then the key is looked at when it is back, by ready.
func openRedisDocuments(ctx context.Context, client redis.UniversalClient, s *redisSettings, key sealer) (*redisDocuments, error) {
	d := &redisDocuments{client: client, namespace: s.namespace, timeout: s.timeout, sealer: key}
	if err := d.ready(ctx); isKeyError(err) {
		return nil, err
	}
	return d, nil
}

func (d *redisDocuments) sealedWith() sealer { return d.sealer }

func (d *redisDocuments) ready(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proven {
		return nil
	}
	if err := prepareKey(ctx, d); err != nil {
		return fmt.Errorf("documents of namespace %s: %w", d.namespace, err)
	}
	d.proven = true
	return nil
}

func (d *redisDocuments) load(ctx context.Context, k kind, name string) ([]byte, error) {
	stored, err := d.read(ctx, k, name)
	if err != nil || stored == nil {
		return nil, err
	}
	return d.sealer.open(k, name, stored, d.where(k, name))
}

func (d *redisDocuments) read(ctx context.Context, k kind, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	stored, err := d.client.HGet(ctx, d.hash(k), name).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return stored, err
}

func (d *redisDocuments) save(ctx context.Context, k kind, name string, content []byte) error {
	if err := d.ready(ctx); err != nil { // a wrong key must not seal anything
		return err
	}
	stored, err := d.sealer.seal(k, name, content)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return d.client.HSet(ctx, d.hash(k), name, stored).Err()
}

// replaceDocument writes a field of a hash unless it has changed since it was
// read; "" is one that was not there. Run twice it does the same.
var replaceDocument = redis.NewScript(`
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] and now ~= ARGV[3] then
	return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
`)

// changeTries is how often a document may change under change. Each time someone
// else got on.
const changeTries = 100

func (d *redisDocuments) change(ctx context.Context, k kind, name string, f func([]byte) []byte) error {
	for range changeTries {
		stored, err := d.read(ctx, k, name)
		if err != nil {
			return err
		}
		old, err := openStored(d.sealer, k, name, stored, d.where(k, name))
		if err != nil {
			return err
		}
		next := f(old)
		if upToDate(d.sealer, k, stored, old, next) {
			return nil
		}
		sealed, err := d.sealer.seal(k, name, next)
		if err != nil {
			return err
		}
		done, err := d.replace(ctx, k, name, stored, sealed)
		if err != nil || done {
			return err
		}
	}
	return fmt.Errorf("the document %s changes all the time", d.where(k, name))
}

func (d *redisDocuments) replace(ctx context.Context, k kind, name string, old, next []byte) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return replaceDocument.Run(ctx, d.client, []string{d.hash(k)}, name, old, next).Bool()
}

func (d *redisDocuments) names(ctx context.Context, k kind) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return d.client.HKeys(ctx, d.hash(k)).Result()
}

func (d *redisDocuments) hash(k kind) string { return "{" + d.namespace + "}:documents:" + k.name }

func (d *redisDocuments) where(k kind, name string) string {
	return "field " + name + " of " + d.hash(k)
}
