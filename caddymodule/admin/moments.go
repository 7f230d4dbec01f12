package admin

import (
	"net/http"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/caddymodule/config"
)

// zone is where the days of the store begin.
func (s *adminStore) zone() *time.Location { return s.configs[0].Config.Zone }

// queryMoment reads a time of the query; where there is none, it is zero.
func (c *call) queryMoment(word string) (time.Time, error) {
	text := c.query.Get(word)
	at, err := config.ParseMoment(text, c.store.zone())
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
func (c *call) bodyMoment(word string, text *string) (time.Time, error) {
	if text == nil {
		return time.Time{}, nil
	}
	if *text == "" {
		return time.Time{}, refuse(http.StatusBadRequest, `%s: "" is not a time; leave it out for one that never comes`, word)
	}
	at, err := config.ParseMoment(*text, c.store.zone())
	switch {
	case err != nil:
		return time.Time{}, refuse(http.StatusBadRequest, "%s: %w", word, err)
	case !at.After(time.Now()):
		return time.Time{}, refuse(http.StatusBadRequest, "%s: %s has passed; write a time to come", word, at.Format(time.RFC3339))
	}
	return at, nil
}
