package redistest

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Clean removes all keys that begin with the prefix, from all masters of a
// Cluster. It waits some seconds at most.
func Clean(t testing.TB, client redis.UniversalClient, prefix string) {
	t.Helper()
	// Not of the test, which may be over.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if cluster, ok := client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return remove(ctx, node, prefix)
		})
	} else {
		err = remove(ctx, client, prefix)
	}
	if err != nil {
		t.Errorf("remove the keys that begin with %q: %v", prefix, err)
	}
}

// literal makes a pattern of text that matches it alone.
var literal = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// remove removes the keys of one server. A key at a time, as those of a Cluster
// go together only within a slot.
func remove(ctx context.Context, node redis.Cmdable, prefix string) error {
	var cursor uint64
	for {
		keys, next, err := node.Scan(ctx, cursor, literal.Replace(prefix)+"*", 1000).Result()
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			_, err := node.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				for _, key := range keys {
					pipe.Unlink(ctx, key)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}
