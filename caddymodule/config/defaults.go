package config

import "github.com/sub2api/caddy-sub2api/upstream"

// setDefaults fills in every option that the config left out. It runs when the
// module is provisioned, so that a JSON config gets the same defaults as a
// Caddyfile; running it again changes nothing.
func (h *Config) setDefaults() {
	fill(&h.Store, &Store{})
	h.Store.setDefaults()
	for i := range h.Accounts {
		a := &h.Accounts[i]
		fillIn(a.options())
		fill(&a.BaseURL, upstream.Platform(a.Platform).DefaultBaseURL())
	}
	for i := range h.Groups {
		fillIn(h.Groups[i].options())
	}
	for i := range h.Users {
		fillIn(h.Users[i].options())
	}

	fill(&h.Scheduling, &Scheduling{})
	fill(&h.Retry, &Retry{})
	fill(&h.Request, &Request{})
	fill(&h.Relay, &Relay{})
	fill(&h.Billing, &Billing{})
	for _, options := range [][]option{
		h.options(), h.Scheduling.options(), h.Retry.options(), h.Request.options(), h.Relay.options(), h.Billing.options(),
	} {
		fillIn(options)
	}
}

func (s *Store) setDefaults() {
	if s.Redis == nil {
		fill(&s.Embedded, &EmbeddedStore{})
		fill(&s.Embedded.Dir, defaultStoreDir())
		return
	}
	fillIn(s.Redis.options())
	fill(&s.Redis.Spool, defaultStoreDir("spool"))
}
