package billing

import (
	"crypto/sha256"
	"time"
)

// User is someone who pays, as a config declares or an operator adds them.
type User struct {
	Name string
	// Balance is the opening balance.
	Balance USD
	// Unlimited: the config declares no balance, so that none is credited yet. For
	// Declare alone; who pays is what a HoldRequest says.
	Unlimited bool
	// Concurrency is how many requests may be in flight; 0 = no limit. For AddUser
	// alone: the config's own is its business.
	Concurrency int
}

// UserChange says what to change of a user; nil = nothing.
type UserChange struct {
	Concurrency *int
	Disabled    *bool
}

// The values of Profile.Source.
const (
	SourceConfig = "config" // Declare made him
	SourceAPI    = "api"    // AddUser made him, or was called for him since
)

// Profile is what a ledger knows of a user.
type Profile struct {
	Name    string
	Source  string
	Balance Balance
	// Concurrency and Disabled are those of an added user, whether a config declares
	// him or not; zero for others.
	Concurrency int
	Disabled    bool
	// Subscriptions are those made with Subscribe, in order of group.
	Subscriptions []Subscription
}

// Balance is a user's money.
type Balance struct {
	Amount USD
	// Held is what requests in flight have set aside of it.
	Held USD
}

// Credit is an amount put on a balance.
type Credit struct {
	// ID makes it be credited once to a user; not to one who has the name after him.
	ID     string
	Amount USD
	Note   string
	Time   time.Time
}

// Key is a gateway key that a ledger keeps. The key itself it never sees.
type Key struct {
	// ID is how people name the key, the first 12 hexadecimal digits of the digest.
	ID string
	// Digest is SHA-256 of the key.
	Digest [sha256.Size]byte
	// Prefix is the begin of the key, to tell it from others.
	Prefix string
	User   string
	// Groups that the key may use, in order of preference; none = every account.
	Groups []string
	// Models that the key may ask for; a trailing * matches a prefix; none = all.
	Models []string
	// Limits are of what its requests Spent; Weekly is 0.
	Limits Limits
	// Expires is zero for a key that does not.
	Expires time.Time
	Created time.Time
	// LastUsed is when the latest record with it was counted (CountedAt); zero = none.
	LastUsed time.Time
}

// Subscription is a user's right to use a group within its limits.
type Subscription struct {
	Group string
	// Subscribed: it was made with Subscribe. It is good until just before Until,
	// zero = no end.
	Subscribed bool
	Until      time.Time
	Windows    Windows
}
