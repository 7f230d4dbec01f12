package billing

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// Errors of a Ledger. Others are failures of the store.
var (
	// ErrUnknownUser: the ledger has never met this user, or he was removed.
	ErrUnknownUser = errors.New("unknown user")
	// ErrUserExists: there is a user of that name.
	ErrUserExists = errors.New("the user exists already")
	// ErrUnknownKey: there is no such gateway key.
	ErrUnknownKey = errors.New("unknown key")
	// ErrKeyExists: there is a key with that ID.
	ErrKeyExists = errors.New("the key exists already")
	// ErrNotSubscribed: the user has no such subscription.
	ErrNotSubscribed = errors.New("no such subscription")
	// ErrUnknownRecord: there is no such record.
	ErrUnknownRecord = errors.New("unknown record")
	// ErrUnwritable: the store takes no records, or no changes, at present, because
	// the disk is full or broken, or another program has it locked. What was settled
	// before is safe.
	ErrUnwritable = errors.New("the ledger can't be written to")
	// ErrUnavailable: the store can't be reached, or serves nobody at present.
	ErrUnavailable = errors.New("the ledger's store is out of reach")
	// ErrClosed: the ledger was closed.
	ErrClosed = errors.New("ledger is closed")
)

// Ledger keeps users, their money and keys, and a record of each request.
// Implementations are safe for concurrent use. Days are those of one Calendar, in the
// time zone that the ledger is opened with. After any crash, for every user,
// Σ charged = opening + credits − balance, where charged are the records that his
// balance paid, those that Prune deleted among them.
type Ledger interface {
	Cashier
	Registry
	Archive

	// Close settles what is under way and closes the store. Later calls return
	// ErrClosed.
	Close() error
}

// Cashier is a request's way through a Ledger: Hold before it goes upstream, then
// Settle, or Release if there is nothing to settle.
type Cashier interface {
	// Hold sets the request's Amount aside on what pays: the user's balance, or the
	// windows of his subscription; and on the key's limits, where it has any. It
	// returns who pays: PaidFromBalance, PaidFromSubscription, or PaidByNobody where
	// the request is Unlimited (a limit of the key counts all the same; with Terms it
	// is the subscription that pays, then too), and the user's number, both of
	// which go into the record. It is all or nothing: a *Refusal
	// says what does not suffice. A request whose ID holds something already changes
	// nothing, and is answered as the first one was. ErrUnknownUser if the user was
	// never declared nor added, or was removed. ErrUnwritable if no record could be
	// kept.
	//
	// The clock may have been ahead once, so that windows begin after now: what Hold or
	// Settle looks at is Moved first, for good, also where Hold refuses.
	//
	// It is on every request's way: embedded, it costs no disk access; else, one
	// round trip. What is set aside comes back with Release or Settle of the same
	// ID, and by itself at most 60 s after the end of this process. The request is
	// not kept after the return.
	Hold(ctx context.Context, req *HoldRequest) (Payer, error)

	// Release gives back what was set aside for a request that is not settled. It
	// does nothing for one that holds nothing. It works when ctx has ended.
	Release(ctx context.Context, id string)

	// Settle keeps the record, ends its hold, and takes what it Spent: from the
	// user's balance where Billing is PaidFromBalance, even below zero; from the
	// windows of his subscription of that Group where it is PaidFromSubscription,
	// even if that is gone; and from the limits of its key, where the ledger knows
	// the key and it has any: one transaction, once per record ID (settling again
	// changes nothing and is no error). Where UserNumber is not the user's number any
	// more, he was removed: the record is kept, and nobody who came after him pays;
	// what it charged is forgiven, as a negative balance is that is removed. Windows
	// count at the time of the request: as long ago, by the store's clock, as the
	// record's Time is by this process's, and never after now. along is sent in the
	// same round trip, where there is one. When it returns nil, all of that survives
	// kill -9. When it
	// returns an error, settle the same record again later: it may or may not have
	// been kept, but never by half. Some errors stay: ErrUnknownUser, where the
	// balance pays, and those of Record.Check. The record is not modified and not
	// kept after the return.
	Settle(ctx context.Context, record *Record, along roundtrip.Batch) error

	// Balance returns the user's money, including every Settle that has returned.
	// ErrUnknownUser if the user was never declared nor added, or was removed.
	Balance(ctx context.Context, user string) (Balance, error)

	// Subscription returns what the ledger has of a user's subscription: the
	// windows, also of one that a config declares, and its end if it was made with
	// Subscribe. Windows that have ended, by the clock, are zero. A user who never
	// had one is no error: the answer has its Group alone.
	Subscription(ctx context.Context, user, group string) (Subscription, error)
}

// Registry is who there is: users and their keys, credits and subscriptions.
// Several processes may share it: a change is seen by all within 2 s.
type Registry interface {
	// Declare makes a config's users known. The first time that a user is declared
	// with a balance, that is without Unlimited, the opening balance is credited, in
	// the same transaction; but not to one who was added with AddUser, who keeps what
	// he has, and whose he is. Declaring someone again changes nothing. One who was
	// removed begins with nothing: a new number, and a new opening balance.
	Declare(ctx context.Context, users []User) error

	// AddUser adds a user, SourceAPI from then on, and credits his Balance.
	// ErrUserExists for one who is SourceAPI already. One whom a config declared keeps
	// what he has; one who was removed begins with nothing, and a new number.
	AddUser(ctx context.Context, user User) error

	// ChangeUser changes what is not nil of an added user, one who is SourceAPI.
	// ErrUnknownUser for others.
	ChangeUser(ctx context.Context, name string, change UserChange) error

	// RemoveUser removes an added user (SourceAPI) with his keys, subscriptions,
	// windows and the IDs of his credits, and takes the rest of his balance (a negative
	// one is forgiven), as a credit of its own. His records stay. What is held for him,
	// and settled later, touches nobody who has the name after him. ErrUnknownUser for
	// others.
	RemoveUser(ctx context.Context, name string) error

	// User returns a user, declared or added. ErrUnknownUser for others, and those
	// removed.
	User(ctx context.Context, name string) (Profile, error)

	// Users returns all users, declared and added, in order of name, but for those
	// removed.
	Users(ctx context.Context) ([]Profile, error)

	// Credit puts an amount on a user's balance, a negative one takes it, once per
	// user and credit ID, and returns the new balance. credited is false if that ID
	// was there before. ErrUnknownUser.
	Credit(ctx context.Context, user string, credit Credit) (balance Balance, credited bool, err error)

	// AddKey adds a gateway key. ErrKeyExists, ErrUnknownUser.
	AddKey(ctx context.Context, key Key) error

	// RevokeKey deletes a key, with what was spent of its limits. ErrUnknownKey.
	RevokeKey(ctx context.Context, id string) error

	// Keys returns a user's keys, or everybody's for "", in order of creation.
	Keys(ctx context.Context, user string) ([]Key, error)

	// Login finds a key by its digest, and its owner. ErrUnknownKey. It is on the
	// way of requests: keys that were asked for before, wrong ones too, are
	// answered from memory, also while a shared store is out of reach; amounts and
	// LastUsed may be old, what this process changed is not. Whether the key has
	// expired or the owner is disabled is for the caller to judge.
	Login(ctx context.Context, digest [sha256.Size]byte) (Key, Profile, error)

	// Subscribe makes, or changes the end of, a subscription of a group; the zero
	// time is no end. Its windows go on. ErrUnknownUser.
	Subscribe(ctx context.Context, user, group string, until time.Time) error

	// Unsubscribe ends a subscription made with Subscribe, and forgets its windows;
	// what is settled later begins new ones. ErrNotSubscribed.
	Unsubscribe(ctx context.Context, user, group string) error
}

// Archive is what was used.
type Archive interface {
	// Records calls yield for each record that the filter matches, newest
	// first and those of one moment in descending order of ID, until yield
	// returns false. Records that Settle returned for are seen. yield may keep
	// the record and may call the ledger.
	Records(ctx context.Context, filter RecordFilter, yield func(*Record) bool) error

	// Record returns the record with that ID, or ErrUnknownRecord.
	Record(ctx context.Context, id string) (*Record, error)

	// Usage sums up the records that the filter matches, a row for each
	// combination of the dimensions' values, in ascending order of these. Without
	// dimensions it is one row, of zeros where nothing matches. It ends when yield
	// returns false. Its memory grows with the rows, not the records. filter's After
	// and Limit are not looked at.
	Usage(ctx context.Context, filter RecordFilter, by []Dimension, yield func(*UsageRow) bool) error

	// Prune deletes the records of one day, the oldest, if it had ended by a time, and
	// what Usage knows of that day; it returns how many records. It goes in small
	// steps, so that Settle never waits for it for long. Processes that share a store
	// delete one day in an hour, all of them together, by the store's clock, and none
	// that has not ended by that.
	Prune(ctx context.Context, before time.Time) (int, error)
}
