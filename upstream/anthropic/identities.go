package anthropic

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"sync"
	"time"
)

// IdentityStore keeps identities where every process that has the accounts finds
// them.
type IdentityStore interface {
	// Change replaces what is kept of an account by what f makes of it, in one
	// step. f gets nil where there is nothing, and may be called more than once.
	Change(ctx context.Context, account string, f func(kept []byte) []byte) error
}

const (
	// exchangeEvery is how soon processes learn of each other's newer clients.
	exchangeEvery = 30 * time.Second
	// exchangeTimeout bounds what a request waits for the store, once for each
	// account, and one exchange.
	exchangeTimeout = 2 * time.Second
)

// Identities keeps the accounts' identities. The zero value keeps them for this
// process alone.
type Identities struct {
	store IdentityStore
	wake  chan struct{} // holds one; there with store

	mu        sync.Mutex
	byAccount map[string]*known
}

// known is an account's identity, as far as it is known.
type known struct {
	mu       sync.Mutex
	identity *Identity // nil = not yet
	unsaved  bool
}

// Keep has identities kept in a store. It comes before all else; Run does the
// work.
func (i *Identities) Keep(store IdentityStore) {
	i.store, i.wake = store, make(chan struct{}, 1)
}

// See returns the account's identity, made or raised by the client's headers.
// The first time that it sees an account it asks the store.
func (i *Identities) See(account, accountUUID string, header http.Header) *Identity {
	k := i.known(account)
	k.mu.Lock()
	defer k.mu.Unlock()
	agent := header.Get("User-Agent")
	if k.identity == nil || agent != "" && newer(agent, k.identity.UserAgent) {
		seen := &Identity{ClientID: randomHex(), UserAgent: agent, Stainless: stainless(header)}
		first := k.identity == nil
		k.identity, k.unsaved = merge(k.identity, seen), true
		switch {
		case i.store == nil:
		case first:
			i.exchange(context.Background(), account, k)
		default:
			i.wakeUp()
		}
	}
	shown := *k.identity
	shown.Account, shown.AccountUUID = account, accountUUID
	return &shown
}

func (i *Identities) known(account string) *known {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byAccount == nil {
		i.byAccount = make(map[string]*known)
	}
	k := i.byAccount[account]
	if k == nil {
		k = new(known)
		i.byAccount[account] = k
	}
	return k
}

func (i *Identities) wakeUp() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// merge is what is in force of the identity that was kept, nil if none, and one
// that was seen: the client id of the first, the newer client of both.
func merge(kept, seen *Identity) *Identity {
	switch {
	case kept == nil:
		return seen
	case seen.UserAgent == "" || !newer(seen.UserAgent, kept.UserAgent):
		return kept
	}
	return &Identity{ClientID: kept.ClientID, UserAgent: seen.UserAgent, Stainless: seen.Stainless}
}

// Run stores identities that changed, and every 30 s takes over what others
// stored, until ctx ends; then it stores what is left.
func (i *Identities) Run(ctx context.Context) {
	ticker := time.NewTicker(exchangeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			i.exchangeAll(context.WithoutCancel(ctx), true)
			return
		case <-i.wake:
			i.exchangeAll(ctx, true)
		case <-ticker.C:
			i.exchangeAll(ctx, false)
		}
	}
}

// exchangeAll exchanges every identity, or those alone that are not stored. It
// ends with the first failure: the store is out of reach.
func (i *Identities) exchangeAll(ctx context.Context, unsaved bool) {
	i.mu.Lock()
	all := maps.Clone(i.byAccount)
	i.mu.Unlock()
	for account, k := range all {
		if !i.exchangeOne(ctx, account, k, unsaved) {
			return
		}
	}
}

// exchangeOne does not hold up requests: the store is asked without the lock.
func (i *Identities) exchangeOne(ctx context.Context, account string, k *known, unsaved bool) bool {
	k.mu.Lock()
	if k.identity == nil || unsaved && !k.unsaved {
		k.mu.Unlock()
		return true
	}
	copied := known{identity: k.identity, unsaved: k.unsaved}
	k.mu.Unlock()
	if !i.exchange(ctx, account, &copied) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	raised := merge(copied.identity, k.identity) // a newer client may have come meanwhile
	k.identity, k.unsaved = raised, raised != copied.identity
	return true
}

// exchange puts the store's identity and the one known in force on both sides;
// false if the store failed. An identity that it can't read is replaced.
func (i *Identities) exchange(ctx context.Context, account string, k *known) bool {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	var merged *Identity
	err := i.store.Change(ctx, account, func(text []byte) []byte {
		kept := new(Identity)
		if text == nil || json.Unmarshal(text, kept) != nil || kept.ClientID == "" {
			kept = nil
		}
		if merged = merge(kept, k.identity); merged == kept {
			return text
		}
		text, _ = json.Marshal(merged) // strings alone: it can't fail
		return text
	})
	if err != nil {
		return false
	}
	k.identity, k.unsaved = merged, false
	return true
}
