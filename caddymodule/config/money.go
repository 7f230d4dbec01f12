package config

import (
	"bytes"
	"encoding/json"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Limits are the most that a subscriber may use, in US dollars at list price. A
// window begins at midnight with the first use, and when it has ended with the
// next one. At least one is needed.
type Limits struct {
	// In a window of one day. Default: no limit
	Daily Dollars `json:"daily,omitempty"`

	// In a window of 7 days. Default: no limit
	Weekly Dollars `json:"weekly,omitempty"`

	// In a window of 30 days. Default: no limit
	Monthly Dollars `json:"monthly,omitempty"`
}

// Subscribe is a user's subscription of a group with limits.
type Subscribe struct {
	// The group's name.
	Group string `json:"group"`

	// When it ends: RFC 3339, or a date (midnight in billing's timezone).
	// Default: it does not end.
	Until string `json:"until,omitempty"`
}

// Billing says what requests cost, and how money is kept.
type Billing struct {
	// A file in LiteLLM's format whose prices are laid over the built-in ones. It is
	// read when the config is loaded. May hold `{env.*}` and `{file.*}`
	// placeholders. Default: none
	Prices string `json:"prices,omitempty"`

	// What users of keys without a group pay per upstream dollar; 0 is free.
	// Default: 1
	RateMultiplier *billing.Rate `json:"rate_multiplier,omitempty"`

	// What is set aside before a request goes upstream, and given back after it:
	// `off` (nothing), `estimate` (what it may well cost) or `max` (the most that
	// it can cost, so that no balance goes below zero). Default: `estimate`
	Hold string `json:"hold,omitempty"`

	// What a record survives before its answer is complete: `process` (the end
	// of this process, however sudden) or `power` (that of the machine too).
	// Default: `process`
	Durability string `json:"durability,omitempty"`

	// The time zone, by its IANA name, whose days are those of limits, of dates
	// wherever one is written, and of sums by day. Default: `UTC`
	Timezone string `json:"timezone,omitempty"`

	// How long records are kept; whole days are deleted. 0 is for ever.
	// Default: 90d
	Retention *caddy.Duration `json:"retention,omitempty"`
}

// Dollars is an amount of US dollars as decimal text, so that no digit of it is
// lost, or `unlimited`. In JSON a plain number is accepted too.
type Dollars string

// UnmarshalJSON implements json.Unmarshaler.
func (d *Dollars) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte(`"`)) {
		return json.Unmarshal(data, (*string)(d))
	}
	var number json.Number
	if err := json.Unmarshal(data, &number); err != nil {
		return err
	}
	*d = Dollars(number)
	return nil
}
