package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// State is what the requests in flight share: slots, lines, session bindings
// and account states. One process keeps it in memory (memstate), many keep
// it in Redis. Every method is one atomic operation, safe for concurrent use.
//
// A slot is the right to have one request in flight at a place (an account or
// a user). It is held as a lease, which has an id, chosen by the caller and
// unique, and an expiry; the slot of an expired lease is free again.
type State interface {
	// Acquire takes a slot for the ask, or a place in line, in one step. Usable
	// candidates are those whose AccountState lets them serve the ask
	// (AccountState.Judge) and that are not excluded; none: Out. A usable candidate
	// is free if it has a slot left and, where Judge says Trial, no other trial
	// is under way there: one that was granted less than TrialLasts ago, is held
	// still, and that no Change has ended (AccountState.Trials).
	//
	//  1. If the ask's session is bound to a usable candidate that does not come
	//     last for Everyone, and Unstick is false, that one is tried: granted, and
	//     the binding renewed. Not free: with fewer than StickyMaxWaiting in its
	//     line, Queued on it alone (Sticky is set in the answer); else step 2.
	//  2. Of the usable candidates that are free, the best by Better is granted,
	//     and the session bound to it.
	//  3. None free: Queued, for the first slot that any usable candidate frees,
	//     counted as waiting at the best one that has fewer than MaxWaiting in
	//     line; the session is bound when the slot is granted. None has: Full.
	//
	// Freed slots go to the line, never past it, so that a free slot is one that
	// nobody in line can take. The line's order is Turn's.
	//
	// A lease id in use already is an error, and so is a set without places.
	Acquire(ctx context.Context, ask *Ask) (Answer, error)

	// Await blocks until a queued ask is Granted, or is Out because no candidate
	// is usable any more (for a Sticky one: the one that it waits for).
	// Candidates that become usable or free meanwhile serve it. When ctx ends
	// first, its place in line (or the slot that it was granted at that moment)
	// is given back at once and the error is context.Cause(ctx). A queued ask
	// that nobody awaits is dropped after its TTL.
	Await(ctx context.Context, lease string) (Answer, error)

	// Release gives back the slots, or the places in line, of leases, in one
	// step, and hands the slots to the line. Unknown leases are no error:
	// releasing twice is releasing once. It takes at most 5 s, without being told
	// by ctx: callers release on their way out and would rather leave a slot to
	// its expiry.
	Release(ctx context.Context, leases ...string) error

	// ReleaseAlong does what Release does, in the round trip of what along is handed
	// to, which is another's of the same store. done must be called after that; it
	// releases what nothing took along.
	ReleaseAlong(leases ...string) (along roundtrip.Batch, done func(ctx context.Context))

	// Renew extends leases to now + ttl. It returns those that no longer exist:
	// they expired, and their slots may be another's by now. Leases of which a
	// store lost its memory before they expired are taken again.
	Renew(ctx context.Context, leases []string, ttl time.Duration) (lost []string, err error)

	// Mark adds marks to a session, whether it is bound or not. They live for ttl
	// from now, and on for as long as the session's binding is renewed. Answers
	// that grant a slot to that session carry them.
	Mark(ctx context.Context, session string, marks Marks, ttl time.Duration) error

	// Change applies f to the account state of a place, atomically, and returns what
	// is now in force; asks in line are looked at again. f may be called more
	// than once, must not block, and gets the zero AccountState for a place never
	// seen.
	Change(ctx context.Context, place string, f func(*AccountState)) (AccountState, error)

	// AccountState returns the account state of a place as this process knows it, at
	// most a second old; it must not be changed. It costs no round trip.
	AccountState(place string) AccountState

	// Now is the time by which account states are kept: the store's, so that a process
	// whose clock is wrong bars no account for others. It costs no round trip.
	Now() time.Time

	// Load returns the load of a place.
	Load(ctx context.Context, place string) (Load, error)

	// Loads returns those of many, in their order, in one round trip.
	Loads(ctx context.Context, places []string) ([]Load, error)

	// Lock takes the lock of that name, which one holder has at a time, over all
	// processes of a store; ErrUnavailable while that is out of reach. It waits
	// while another holds it, until ctx ends; the error is context.Cause(ctx)
	// then. The lock is free again when unlock is called, or after ttl, for its
	// holder may have died: who holds it for longer is no longer alone. unlock
	// takes at most 5 s; called again, or when the lock is another's by now, it
	// does nothing.
	Lock(ctx context.Context, name string, ttl time.Duration) (unlock func(), err error)

	// Close ends background work. Asks in line, and who waits for a lock, get
	// ErrClosed.
	Close() error
}

// Ask is a request for one slot.
type Ask struct {
	// Lease is the id of the lease to make: unique, chosen by the caller.
	Lease string
	// TTL is how long the lease lives unless renewed.
	TTL        time.Duration
	Candidates *Candidates
	// Exclude names places that must not serve this ask: few, usually none.
	Exclude []string
	// Model, Fast and Endpoint are what AccountState.Judge is asked.
	Model    string
	Fast     bool
	Endpoint Endpoint
	// Question is one of the gateway itself, which goes to the account whatever its
	// account state.
	Question bool
	// User is whose ask it is, for taking turns in line; "" is a user too.
	User string
	// Session, scoped by the caller, is what to bind; "" = nothing.
	Session string
	// BindTTL is how long the binding lives from now.
	BindTTL time.Duration
	// Memory is the session whose marks count; "" = Session. It is another one where
	// several users share a binding: what is remembered is each one's own.
	Memory string
	// Unstick skips step 1 of Acquire.
	Unstick bool
	// IgnoreLoad orders by priority and last use alone.
	IgnoreLoad bool
	// StickyMaxWaiting and MaxWaiting bound a place's line.
	StickyMaxWaiting int
	MaxWaiting       int
	// Along is sent once in Acquire's round trip, where there is one. What is to take
	// effect only with a slot has a guard: the lease's field in the hash of slots held.
	Along roundtrip.Batch
}

// Candidates is a set of places, shared by many asks and never changed or
// copied.
type Candidates struct {
	// Places, no name twice, at least one.
	Places []Place
	// Pool names the line in which users take turns (see Turn). Sets of one pool
	// usually share places: the models of one group.
	Pool string
	// Cache holds what States have looked up for this set, under keys of their own.
	// It lives as long as the config.
	Cache sync.Map
}

// Place is where a slot can be: an account or a user.
type Place struct {
	// Name is "account/<name>" or "user/<name>".
	Name string
	// Limit is how many slots there are; 0 = no limit.
	Limit int
	// Priority: lower is tried first.
	Priority int
	// UnusedFirst places go before other never-used ones of equal priority and
	// load (gemini's oauth accounts).
	UnusedFirst bool
}

// AnswerKind tells what became of an ask.
type AnswerKind uint8

// The answers to an ask.
const (
	// Granted: the lease holds a slot at Answer.Place.
	Granted AnswerKind = iota + 1
	// Queued: in line; call Await.
	Queued
	// Full: every line that the ask may join is full.
	Full
	// Out: no candidate is usable before Answer.Until.
	Out
)

// Answer is the answer to an ask.
type Answer struct {
	Kind AnswerKind
	// Place is the name of the place that granted the slot, or, when Queued and
	// Sticky, of the one that is waited for.
	Place  string
	Sticky bool
	// Moved: the session was bound to another place before.
	Moved bool
	// Own: the place was tried because the session is bound to it.
	Own bool
	// Last: the place comes last for this ask (Verdict.Last).
	Last bool
	// Trial: the account was limited, and this is the request that tries it.
	Trial bool
	// Marks of the session. All five are set when Granted.
	Marks Marks
	// Until is the soonest time at which a candidate becomes usable again; zero
	// where none will by itself. With Out alone.
	Until time.Time
}

// Marks are facts remembered for a session.
type Marks uint8

// StripThinking: upstream refused this session's thinking blocks once, so they
// are left out of its later turns.
const StripThinking Marks = 1

// Load is how busy a place is.
type Load struct {
	InUse, Waiting int
	LastUsed       time.Time // of the last slot granted; zero = never
}
