package redisledger

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// mostWrongKeys bounds how many digests of no key are remembered.
const mostWrongKeys = 10_000

type digest = [sha256.Size]byte

// Login implements billing.Ledger. What is answered from memory has the money and
// the windows of the time at which it was asked for, or newer; it must not be
// modified.
func (l *Ledger) Login(ctx context.Context, d [sha256.Size]byte) (billing.Key, billing.Profile, error) {
	if l.closed.Load() {
		return billing.Key{}, billing.Profile{}, billing.ErrClosed
	}
	known, wrong := l.logins.find(d)
	var err error
	if known == nil && !wrong {
		if known, err = l.login(ctx, d); err != nil {
			return billing.Key{}, billing.Profile{}, fmt.Errorf("finding a key: %w", err)
		}
	}
	if known == nil {
		return billing.Key{}, billing.Profile{}, billing.ErrUnknownKey
	}
	profile := known.profile
	if last, isKnown := l.cache.last(profile.Name); isKnown {
		profile.Balance = last
	}
	return known.key, profile, nil
}

// login asks Redis for a key; nil if there is none.
func (l *Ledger) login(ctx context.Context, d digest) (*login, error) {
	if l.down.Load() {
		return nil, errDown
	}
	asked := l.cache.ask()
	reply, err := l.runRegistry(ctx, loginScript, hex.EncodeToString(d[:]))
	if err != nil {
		return nil, err
	}
	answer, _ := reply.([]any)
	if len(answer) != 1 && len(answer) != 4 {
		return nil, fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	changes, err := parseInteger(answer[0])
	if err != nil {
		return nil, err
	}
	if len(answer) == 1 {
		l.logins.learn(d, nil, changes)
		return nil, nil
	}
	id, _ := answer[1].(string)
	list, _ := answer[2].([]any)
	hash := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		field, _ := list[i].(string)
		hash[field], _ = list[i+1].(string)
	}
	found := new(login)
	if found.key, err = parseKey(id, hash); err != nil {
		return nil, err
	}
	profile, now, isKnown, err := parseProfile(found.key.User, answer[3])
	if err != nil || !isKnown {
		return nil, err
	}
	l.cache.learn(profile.Name, asked, now)
	found.profile = profile
	l.logins.learn(d, found, changes)
	return found, nil
}

// login is a key and its owner.
type login struct {
	key     billing.Key
	profile billing.Profile
}

// logins are the keys that were asked for, and wrong ones.
type logins struct {
	mu    sync.Mutex
	known map[digest]*login
	// wrong are digests of no key, by their place in order: last asked for first.
	wrong map[digest]*list.Element
	order *list.List
	// seen is how many changes, of those that Redis counts, are taken account of;
	// -1 before the first answer.
	seen int64
}

func newLogins() *logins {
	return &logins{known: make(map[digest]*login), wrong: make(map[digest]*list.Element), order: list.New(), seen: -1}
}

// find looks a key up; wrong tells that there is none.
func (ls *logins) find(d digest) (known *login, wrong bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if place := ls.wrong[d]; place != nil {
		ls.order.MoveToFront(place)
		return nil, true
	}
	return ls.known[d], false
}

// learn takes in what Redis said of a digest after that many changes, unless some
// that were taken account of came later; nil: it is none of a key.
func (ls *logins) learn(d digest, found *login, changes int64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.seen < 0 {
		ls.seen = changes
	}
	if changes < ls.seen {
		return
	}
	ls.forget(d)
	if found != nil {
		ls.known[d] = found
		return
	}
	if ls.order.Len() == mostWrongKeys {
		ls.forget(ls.order.Back().Value.(digest))
	}
	ls.wrong[d] = ls.order.PushFront(d)
}

// forget forgets a digest. mu is held.
func (ls *logins) forget(d digest) {
	delete(ls.known, d)
	if place := ls.wrong[d]; place != nil {
		delete(ls.wrong, d)
		ls.order.Remove(place)
	}
}

func (ls *logins) forgetKey(d digest) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.forget(d)
}

func (ls *logins) forgetUser(name string) {
	ls.forgetIf(func(known *login) bool { return known.profile.Name == name })
}

func (ls *logins) forgetKeyID(id string) {
	ls.forgetIf(func(known *login) bool { return known.key.ID == id })
}

func (ls *logins) forgetIf(of func(*login) bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for d, known := range ls.known {
		if of(known) {
			delete(ls.known, d)
		}
	}
}

// taken is how many changes were taken account of.
func (ls *logins) taken() int64 {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.seen
}

// take notes that so many changes are being taken account of. If it is not known
// what they were, all is forgotten.
func (ls *logins) take(changes int64, areKnown bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.seen = changes
	if !areKnown {
		clear(ls.known)
		clear(ls.wrong)
		ls.order.Init()
	}
}

// readChanges finds out what other processes have changed.
func (l *Ledger) readChanges(ctx context.Context) error {
	before := l.logins.taken()
	if before < 0 { // nothing is remembered
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	changes, err := l.client.Get(bounded, l.changesKey()).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return l.note(ctx, err)
	}
	if changes == before {
		return nil
	}
	last, err := l.client.LRange(bounded, l.lastChangesKey(), 0, -1).Result()
	if l.note(ctx, err) != nil {
		return err
	}
	var unseen []string
	next := before + 1
	for _, change := range last {
		count, what, _ := strings.Cut(change, ":")
		if count == strconv.FormatInt(next, 10) {
			unseen = append(unseen, what)
			next++
		}
	}
	if changes < before || next <= changes { // Redis has lost its data, or there were too many
		l.logins.take(changes, false)
		return nil
	}
	// First this: who asked before the changes must not fill in what they make
	// untrue.
	l.logins.take(next-1, true)
	for _, what := range unseen {
		l.takeChange(what)
	}
	return nil
}

// takeChange forgets what has changed, as registry.lua names it.
func (l *Ledger) takeChange(what string) {
	if what == "" {
		return
	}
	switch kind, name := what[0], what[1:]; kind {
	case 'u':
		l.logins.forgetUser(name)
	case 'r':
		l.cache.forgetUser(name)
		l.logins.forgetUser(name)
	case 'k':
		var d digest
		if n, err := hex.Decode(d[:], []byte(name)); err == nil && n == len(d) {
			l.logins.forgetKey(d)
		}
	}
}
