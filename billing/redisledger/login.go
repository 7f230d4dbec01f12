package redisledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
			return billing.Key{}, billing.Profile{}, fmt.Errorf("finding a key: %w", unavailable(err))
		}
	}
	if known == nil {
		return billing.Key{}, billing.Profile{}, billing.ErrUnknownKey
	}
	profile := known.profile
	if last, isKnown := l.snapshot.last(profile.Name); isKnown {
		profile.Balance = last
	}
	return known.key, profile, nil
}

// login asks Redis for a key; nil if there is none.
func (l *Ledger) login(ctx context.Context, d digest) (*login, error) {
	if err := l.link.Down(); err != nil {
		return nil, err
	}
	answer, err := l.runRegistry(ctx, loginScript, hex.EncodeToString(d[:]))
	if err != nil {
		return nil, err
	}
	list, _ := answer.([]any)
	if len(list) == 1 {
		a := newReply(answer, 1)
		l.logins.learn(d, nil, a.number(0))
		return nil, a.err
	}
	a := newReply(answer, 4)
	id, fields := a.text(1), []any(nil)
	fields, _ = a.list[2].([]any)
	hash := make(map[string]string, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		field, _ := fields[i].(string)
		hash[field], _ = fields[i+1].(string)
	}
	if a.err != nil {
		return nil, a.err
	}
	found := new(login)
	if found.key, err = parseKey(id, hash); err != nil {
		return nil, err
	}
	profile, now, isKnown, err := l.parseProfile(found.key.User, a.list[3])
	if err != nil || !isKnown {
		return nil, err
	}
	l.snapshot.learnUser(profile.Name, now)
	found.profile = profile
	l.logins.learn(d, found, a.number(0))
	return found, a.err
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
	wrong map[digest]bool // digests of no key
	// seen is how many changes, of those that Redis counts, are taken account of;
	// -1 before the first answer.
	seen int64
}

func newLogins() *logins {
	return &logins{known: make(map[digest]*login), wrong: make(map[digest]bool), seen: -1}
}

// find looks a key up; wrong: there is none.
func (ls *logins) find(d digest) (known *login, wrong bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.known[d], ls.wrong[d]
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
	if len(ls.wrong) == mostWrongKeys {
		clear(ls.wrong)
	}
	ls.wrong[d] = true
}

// forget forgets a digest. mu is held.
func (ls *logins) forget(d digest) {
	delete(ls.known, d)
	delete(ls.wrong, d)
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
	}
}

// readChanges finds out what other processes have changed, if there have been other
// changes than were taken account of.
func (l *Ledger) readChanges(ctx context.Context, changes int64) error {
	before := l.logins.taken()
	switch {
	case before < 0: // nothing is remembered
		l.logins.take(changes, true)
		return nil
	case changes == before: // all is true
		return nil
	case changes < before: // Redis has lost its data, or its last changes
		l.doubt()
		l.logins.take(changes, false)
		return nil
	}
	last, err := ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd { return pipe.LRange(ctx, l.lastChangesKey(), 0, -1) })
	if err != nil {
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
	if next <= changes { // there were too many
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
		l.undeclare(name)
		l.snapshot.forgetUser(name)
		l.logins.forgetUser(name)
	case 'k':
		var d digest
		if n, err := hex.Decode(d[:], []byte(name)); err == nil && n == len(d) {
			l.logins.forgetKey(d)
		}
	}
}
