package store

import (
	"context"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
)

// heedfulBackend opens unless the context has ended.
type heedfulBackend struct{ Backend }

func (heedfulBackend) Open(ctx context.Context, _ EncryptionKey) (billing.Ledger, Documents, error) {
	return nil, nil, ctx.Err()
}

// What fails to open is left alone for seconds, so a client that leaves meanwhile
// must not make it fail for all.
func TestStoreOpensThoughTheFirstToAskLeaves(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	leave()
	s := &Store{backend: heedfulBackend{}}
	if _, err := s.Open(ctx, nil); err != nil {
		t.Error(err)
	}
}
