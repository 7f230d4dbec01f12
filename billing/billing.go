// Package billing is what a request cost and who pays: money (USD), prices
// (Prices), what was used (Usage), what is kept of it (Record), and the ledger
// that charges it exactly once (Ledger, implemented by the packages below).
package billing

import (
	"context"
	"errors"
	"time"
)

// Usage is what one answer used. Counts are tokens.
type Usage struct {
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
	// WebSearches are priced per search, beside the tokens.
	WebSearches int64
	// Speed is "fast", or anything else for standard speed.
	Speed string
	// Tier is "batch" for the batch discount, or anything else.
	Tier string
	// Geo is where inference ran; "us" has a multiplier.
	Geo string
	// Iterations, where present, replace the token counts above, each priced
	// by its own model.
	Iterations []Iteration
}

// Iteration is one model call among several that made an answer.
type Iteration struct {
	// Model is "" for the model that the client asked for.
	Model        string
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
}

// Cost is the price of a Usage, by kind.
type Cost struct {
	Input, Output, CacheWrite, CacheRead, WebSearch USD
}

// Total is the sum of all kinds.
func (c Cost) Total() USD {
	return c.Input.Plus(c.Output).Plus(c.CacheWrite).Plus(c.CacheRead).Plus(c.WebSearch)
}

// How a record was paid: the values of Record.Billing.
const (
	PaidFromBalance      = "balance"
	PaidFromSubscription = "subscription"
	PaidByNobody         = "none"
)

// Record is what is kept of one request. Its JSON names are the contract of
// the admin API and of exports.
type Record struct {
	// ID is made when the request comes in. Settling the same ID twice changes
	// nothing. Ids that begin with the time (UUID version 7) keep a store's
	// index of them quick to write.
	ID                string    `json:"id"`
	Time              time.Time `json:"time"` // when the request came in, UTC
	User              string    `json:"user"`
	KeyID             string    `json:"key_id"`
	Account           string    `json:"account"`
	Group             string    `json:"group"`
	Platform          string    `json:"platform"`
	Model             string    `json:"model"`      // as the client asked for; this one is priced
	ModelSent         string    `json:"model_sent"` // as it went upstream
	Session           string    `json:"session"`
	Stream            bool      `json:"stream"`
	Status            int       `json:"status"`
	Input             int64     `json:"input_tokens"`
	Output            int64     `json:"output_tokens"`
	CacheWrite5m      int64     `json:"cache_write_5m_tokens"`
	CacheWrite1h      int64     `json:"cache_write_1h_tokens"`
	CacheRead         int64     `json:"cache_read_tokens"`
	WebSearches       int64     `json:"web_searches"`
	InputCost         USD       `json:"input_cost_usd"`
	OutputCost        USD       `json:"output_cost_usd"`
	CacheWriteCost    USD       `json:"cache_write_cost_usd"`
	CacheReadCost     USD       `json:"cache_read_cost_usd"`
	WebSearchCost     USD       `json:"web_search_cost_usd"`
	Cost              USD       `json:"cost_usd"`
	RateMultiplier    Rate      `json:"rate_multiplier"`
	Charged           USD       `json:"charged_usd"`
	Billing           string    `json:"billing"` // balance, subscription or none
	DurationMS        int64     `json:"duration_ms"`
	TTFTMS            int64     `json:"ttft_ms"` // request in to first content out; 0 = none came
	Attempts          int       `json:"attempts"`
	UpstreamRequestID string    `json:"upstream_request_id"`
	Estimated         bool      `json:"estimated"` // the output tokens are an estimate
	Unpriced          bool      `json:"unpriced"`  // no price was known
}

// User is someone who pays, as a config declares them.
type User struct {
	Name string
	// Balance is the opening balance, credited once per store, the first time
	// that the user is declared without Unlimited.
	Balance USD
	// Unlimited users have no balance: nothing is refused for money, and
	// records say what it would have cost.
	Unlimited bool
}

// Balance is a user's money.
type Balance struct {
	Amount    USD
	Unlimited bool
}

// Errors of a Ledger. Others are failures of the store.
var (
	// ErrUnknownUser: the ledger has never met this user.
	ErrUnknownUser = errors.New("unknown user")
	// ErrClosed: the ledger was closed.
	ErrClosed = errors.New("ledger is closed")
)

// Ledger keeps balances and records. Implementations are safe for concurrent
// use. After any crash, Σ charged = opening + credits − balance.
type Ledger interface {
	// Declare makes users known. The first time that a user is declared with a
	// balance, that is without Unlimited, the opening balance is credited, in
	// the same transaction. Declaring someone again changes only Unlimited: the
	// balance of an unlimited user is kept for when the limit comes back.
	Declare(ctx context.Context, users []User) error

	// Balance returns the user's money, including every Settle that has
	// returned. It is on every request's way and costs no disk access.
	// ErrUnknownUser if the user was never declared.
	Balance(ctx context.Context, user string) (Balance, error)

	// Settle keeps the record and, where Billing is PaidFromBalance, takes
	// Charged from the user's balance, even below zero and even if the user is
	// unlimited by now: one transaction, once per record ID (settling again
	// changes nothing and is no error). When it returns nil, record and charge
	// survive kill -9. When it returns an error, settle the same record again
	// later: it may or may not have been kept, but never by half. Some errors
	// stay: ErrUnknownUser, and that of a record without an ID or with a
	// negative charge. The record is not modified and not kept after the return.
	Settle(ctx context.Context, record *Record) error

	// Records calls yield for each record that the filter matches, newest
	// first and those of one moment in descending order of ID, until yield
	// returns false. Records that Settle returned for are seen. yield may keep
	// the record and may call the ledger.
	Records(ctx context.Context, filter RecordFilter, yield func(*Record) bool) error

	// Close settles what is under way and closes the store. Later calls return
	// ErrClosed.
	Close() error
}

// RecordFilter selects records; the zero value matches all.
type RecordFilter struct {
	// From and To bound Time: From <= Time < To; zero = unbounded.
	From, To time.Time
	// User, KeyID, Account, Group and Model match exactly; "" = any.
	User, KeyID, Account, Group, Model string
	// Limit is the largest number of records; 0 = no limit.
	Limit int
}
