package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	_ "time/tzdata" // small images of systems have none

	"github.com/sub2api/caddy-sub2api/billing"
)

// parseMoment reads a time with its offset in RFC 3339, or a date for the start of
// that day in zone; "" is the zero time. The answer is in UTC.
func parseMoment(text string, zone *time.Location) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if at, err = time.Parse(time.DateOnly, text); err == nil {
			at = billing.DayStart(at.Year(), at.Month(), at.Day(), zone)
		}
	}
	if err != nil || at.Year() < 2000 || at.Year() >= 2200 {
		return time.Time{}, fmt.Errorf("%.80q is no time; write one such as 2027-01-01 or 2027-01-01T12:00:00Z", text)
	}
	return at.UTC(), nil
}

// loadZone finds a time zone by its name; "" is UTC.
func loadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("%.80q is no time zone; write a name such as UTC, Asia/Shanghai or America/New_York", name)
	}
	return zone, nil
}

// zone is where the days of the store begin.
func (s *adminStore) zone() *time.Location { return s.configs[0].Zone }

// queryMoment reads a time of the query; where there is none, it is zero.
func (c *adminCall) queryMoment(word string) (time.Time, error) {
	text := c.query.Get(word)
	at, err := parseMoment(text, c.store.zone())
	if err == nil {
		return at, nil
	}
	if strings.Contains(text, " ") {
		return at, refuse(http.StatusBadRequest, "%s: %w; in a query, + is written %%2B", word, err)
	}
	return at, refuse(http.StatusBadRequest, "%s: %w", word, err)
}

// bodyMoment reads a time to come of the body. nil, which is absent or null, is
// the zero time: never.
func (c *adminCall) bodyMoment(word string, text *string) (time.Time, error) {
	if text == nil {
		return time.Time{}, nil
	}
	if *text == "" {
		return time.Time{}, refuse(http.StatusBadRequest, `%s: "" is no time; leave it out for one that never comes`, word)
	}
	at, err := parseMoment(*text, c.store.zone())
	switch {
	case err != nil:
		return time.Time{}, refuse(http.StatusBadRequest, "%s: %w", word, err)
	case !at.After(time.Now()):
		return time.Time{}, refuse(http.StatusBadRequest, "%s: %s has passed; write a time to come", word, at.Format(time.RFC3339))
	}
	return at, nil
}
