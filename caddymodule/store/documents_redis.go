package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// redisDocuments keeps documents in Redis: a hash for each kind, name to
// content. All who share the store have the same.
type redisDocuments struct {
	link      *redislink.Link
	namespace string
	sealer    EncryptionKey

	mu     sync.Mutex
	proven bool // the key is the store's
}

// openRedisDocuments opens the documents of a store. Redis may be out of reach;
// then the key is looked at when it is back, by ready.
func openRedisDocuments(ctx context.Context, link *redislink.Link, namespace string, key EncryptionKey) (*redisDocuments, error) {
	d := &redisDocuments{link: link, namespace: namespace, sealer: key}
	if link.Down() == nil {
		if err := d.Ready(ctx); isKeyError(err) {
			return nil, err
		}
	}
	return d, nil
}

// exec runs one command. Whatever Redis says against it is scheduler.ErrUnavailable.
func (d *redisDocuments) exec(ctx context.Context, add func(redis.Pipeliner) redis.Cmder) error {
	var cmd redis.Cmder
	err := d.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) { cmd = add(pipe) })
	if err == nil {
		err = cmd.Err()
	}
	return unavailable(err)
}

func unavailable(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fmt.Errorf("%w: %w", scheduler.ErrUnavailable, err)
}

func (d *redisDocuments) sealedWith() EncryptionKey { return d.sealer }

func (d *redisDocuments) Ready(ctx context.Context) error {
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

func (d *redisDocuments) Load(ctx context.Context, k Kind, name string) ([]byte, error) {
	stored, err := d.read(ctx, k, name)
	if err != nil || stored == nil {
		return nil, err
	}
	return d.sealer.open(k, name, stored, d.Where(k, name))
}

func (d *redisDocuments) read(ctx context.Context, k Kind, name string) ([]byte, error) {
	var stored *redis.StringCmd
	err := d.exec(ctx, func(pipe redis.Pipeliner) redis.Cmder {
		stored = pipe.HGet(ctx, d.hash(k), name)
		return stored
	})
	if err != nil || stored.Err() != nil {
		return nil, err
	}
	return stored.Bytes()
}

func (d *redisDocuments) Save(ctx context.Context, k Kind, name string, content []byte) error {
	if err := d.Ready(ctx); err != nil { // a wrong key must not seal anything
		return err
	}
	stored, err := d.sealer.seal(k, name, content)
	if err != nil {
		return err
	}
	return d.exec(ctx, func(pipe redis.Pipeliner) redis.Cmder { return pipe.HSet(ctx, d.hash(k), name, stored) })
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

func (d *redisDocuments) Change(ctx context.Context, k Kind, name string, f func([]byte) []byte) error {
	for range changeTries {
		stored, err := d.read(ctx, k, name)
		if err != nil {
			return err
		}
		old, err := openStored(d.sealer, k, name, stored, d.Where(k, name))
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
	return fmt.Errorf("the document %s changes all the time", d.Where(k, name))
}

func (d *redisDocuments) replace(ctx context.Context, k Kind, name string, old, next []byte) (bool, error) {
	done, err := d.link.Run(ctx, replaceDocument, []string{d.hash(k)}, name, old, next)
	return done == int64(1), unavailable(err)
}

func (d *redisDocuments) names(ctx context.Context, k Kind) ([]string, error) {
	var names *redis.StringSliceCmd
	err := d.exec(ctx, func(pipe redis.Pipeliner) redis.Cmder {
		names = pipe.HKeys(ctx, d.hash(k))
		return names
	})
	return names.Val(), err
}

func (d *redisDocuments) hash(k Kind) string { return "{" + d.namespace + "}:documents:" + k.name }

func (d *redisDocuments) Where(k Kind, name string) string {
	return "field " + name + " of " + d.hash(k)
}
