package config

import (
	"fmt"
	"time"
	_ "time/tzdata" // small images of systems have none

	"github.com/sub2api/caddy-sub2api/billing"
)

// ParseMoment reads a time with its offset in RFC 3339, or a date for the start of
// that day in zone; "" is the zero time. The answer is in UTC.
func ParseMoment(text string, zone *time.Location) (time.Time, error) {
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
		return time.Time{}, fmt.Errorf("%.80q is not a time; write one such as 2027-01-01 or 2027-01-01T12:00:00Z", text)
	}
	return at.UTC(), nil
}

// loadZone finds a time zone by its name; "" is UTC.
func loadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("%.80q is not a time zone; write a name such as UTC, Asia/Shanghai or America/New_York", name)
	}
	return zone, nil
}
