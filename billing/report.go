package billing

import (
	"fmt"
	"time"
)

// RecordFilter selects records; the zero value matches all.
type RecordFilter struct {
	// From and To bound Time: From <= Time < To; zero = unbounded.
	From, To time.Time
	// SettledFrom and SettledTo bound Settled in the same way; for Records alone. Who
	// asks when SettledTo is not to come any more, by the ledger's clock, gets all that
	// will ever match: no record is settled before it any more, also after a restart.
	SettledFrom, SettledTo time.Time
	// User, KeyID, Account, Group and Model match exactly; "" = any.
	User, KeyID, Account, Group, Model string
	// After leaves out this record and those that come before it in the order of
	// Records; only its Time and ID are looked at. nil = none.
	After *Record
	// Limit is the largest number of records; 0 = no limit.
	Limit int
}

// Dimension is what Usage can tell rows apart by.
type Dimension string

const (
	ByUser    Dimension = "user"
	ByKey     Dimension = "key"
	ByAccount Dimension = "account"
	ByGroup   Dimension = "group"
	ByModel   Dimension = "model"
	ByDay     Dimension = "day" // in the ledger's time zone
)

// ParseDimension reads a Dimension's name.
func ParseDimension(text string) (Dimension, error) {
	switch d := Dimension(text); d {
	case ByUser, ByKey, ByAccount, ByGroup, ByModel, ByDay:
		return d, nil
	}
	return "", fmt.Errorf("%q is none of user, key, account, group, model and day", text)
}

// UsageRow is a sum over records. Of the names, those of the dimensions are set.
type UsageRow struct {
	User, KeyID, Account, Group, Model string
	Day                                string // YYYY-MM-DD, in the ledger's time zone

	Requests     int64
	Input        int64
	Output       int64
	CacheWrite5m int64
	CacheWrite1h int64
	CacheRead    int64
	Cost         USD
	Charged      USD
}

// Add counts a record.
func (u *UsageRow) Add(r *Record) {
	u.Requests++
	u.Input += r.Input
	u.Output += r.Output
	u.CacheWrite5m += r.CacheWrite5m
	u.CacheWrite1h += r.CacheWrite1h
	u.CacheRead += r.CacheRead
	u.Cost = u.Cost.Plus(r.Cost)
	u.Charged = u.Charged.Plus(r.Charged)
}

// Name is the field that holds the value of a dimension.
func (u *UsageRow) Name(d Dimension) *string {
	switch d {
	case ByUser:
		return &u.User
	case ByKey:
		return &u.KeyID
	case ByAccount:
		return &u.Account
	case ByGroup:
		return &u.Group
	case ByModel:
		return &u.Model
	}
	return &u.Day
}
