package config

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// Site is one sub2api handler of a config, with what it says of the things that all
// sites of its store share.
type Site struct {
	store  string                   // the same for every site of a store
	Server string                   // that it is part of; "" while that is not known
	place  func(path string) string // where an item of the site is, for errors
	claims []claimed
}

// claimed is one thing that a site says of what the store keeps, or judges, under a
// name. Sites that say different things of it would overrule each other, in
// whatever order they serve requests.
type claimed struct {
	what  string // such as "user alice: balance"
	path  string // of the item in the config
	value string
	// secret: the value is a digest of what no error may show.
	secret bool
	// hidden: a placeholder stands in for the value, so it may equal any other.
	hidden bool
}

// Contradicts returns an error, at the claim's path, if another site of the same
// store says something else.
func (s *Site) Contradicts(other *Site) error {
	if s.store != other.store {
		return nil
	}
	theirs := make(map[string]claimed, len(other.claims))
	for _, c := range other.claims {
		theirs[c.what] = c
	}
	for _, ours := range s.claims {
		c, ok := theirs[ours.what]
		if !ok || c.value == ours.value || c.hidden || ours.hidden {
			continue
		}
		advice := "both sites use one store, which has one of it: write the same in both, or give one site a store of its own"
		if strings.Contains(ours.path, "[") {
			advice += ", or another name for it"
		}
		if ours.secret {
			return &configError{ours.path, fmt.Errorf("%s at %s is another than at %s; %s", ours.what, s.place(ours.path), other.place(c.path), advice)}
		}
		return &configError{ours.path, fmt.Errorf("%s is %s at %s and %s at %s; %s", ours.what, ours.value, s.place(ours.path), c.value, other.place(c.path), advice)}
	}
	return nil
}

// reader resolves a text of the config; hidden means that it could not.
type reader func(text string) (value string, hidden bool)

// asWritten leaves placeholders to those who run the config.
func asWritten(text string) (string, bool) {
	found, err := placeholders(text)
	return text, found || err != nil
}

// resolved is for a config whose placeholders were resolved before.
func resolved(text string) (string, bool) {
	value, err := resolve(text)
	return value, err != nil
}

// NewSite is the site of a config at work, of a store and server.
func (h *Config) NewSite(store, server string, place func(path string) string) *Site {
	return &Site{store, server, place, h.claims(resolved)}
}

// claims are what a config says of what its store shares. The config was checked and
// has its defaults.
//
// They are what decides over money and slots that are kept under a name, and what
// is kept of an account: its credential is the one that is refreshed, and its
// state that of one base_url. What a site decides for its own requests alone, such as
// which groups a key may use, which models an account serves or what its priority
// is, may differ.
func (h *Config) claims(read reader) []claimed {
	all := h.storeClaims(read)
	for i := range h.Accounts {
		all = append(all, h.Accounts[i].claims(fmt.Sprintf("account[%d]", i), read)...)
	}
	for i := range h.Groups {
		all = append(all, h.Groups[i].claims(fmt.Sprintf("group[%d]", i))...)
	}
	zone, _ := loadZone(h.Billing.Timezone) // checked
	for i := range h.Users {
		all = append(all, h.Users[i].claims(fmt.Sprintf("user[%d]", i), zone, read)...)
	}
	return all
}

func (h *Config) storeClaims(read reader) []claimed {
	b := h.Billing
	key, hidden := read(h.EncryptionKey)
	all := []claimed{
		{what: "billing: timezone", path: "billing.timezone", value: b.Timezone},
		{what: "billing: durability", path: "billing.durability", value: b.Durability},
		{what: "billing: retention", path: "billing.retention", value: time.Duration(*b.Retention).String()},
		{what: "encryption_key", path: "encryption_key", value: upstream.Digest(key), secret: true, hidden: hidden},
	}
	if r := h.Store.Redis; r != nil {
		spool, hidden := read(r.Spool)
		all = append(all,
			claimed{what: "store redis: on_outage", path: "store.on_outage", value: r.OnOutage},
			claimed{what: "store redis: timeout", path: "store.timeout", value: time.Duration(*r.Timeout).String()},
			claimed{what: "store redis: spool", path: "store.spool", value: filepath.Clean(spool), hidden: hidden},
		)
	}
	return all
}

func (a *Account) claims(path string, read reader) []claimed {
	title := "account " + a.Name + ": "
	base, hidden := read(a.BaseURL)
	if u, err := parseBaseURL(base); err == nil {
		base = u.String()
	}
	credential := claimed{what: title + "the credential", path: path, secret: true}
	texts := []string{a.APIKey, a.SetupToken}
	if o := a.OAuth; o != nil {
		texts = append(texts, "oauth", o.AccessToken, o.RefreshToken, o.TokenURL, o.ClientID, o.ClientSecret)
	}
	for i, text := range texts {
		var unknown bool
		texts[i], unknown = read(text)
		credential.hidden = credential.hidden || unknown
	}
	credential.value = upstream.Digest(texts...)
	return []claimed{
		{what: title + "platform", path: path + ".platform", value: a.Platform},
		{what: title + "base_url", path: path + ".base_url", value: base, hidden: hidden},
		credential,
		{what: title + "concurrency", path: path + ".concurrency", value: strconv.Itoa(a.Concurrency)},
		{what: title + "account_uuid", path: path + ".account_uuid", value: orNone(strings.ToLower(a.AccountUUID))},
	}
}

func (g *Group) claims(path string) []claimed {
	title := "group " + g.Name + ": "
	rate := ""
	if g.RateMultiplier != nil {
		rate = g.RateMultiplier.String()
	}
	all := []claimed{
		{what: title + "platform", path: path + ".platform", value: g.Platform},
		{what: title + "rate_multiplier", path: path + ".rate_multiplier", value: orNone(rate)},
	}
	var limits billing.Limits
	if g.Limits != nil {
		limits = g.Limits.amounts()
	}
	for span, limit := range limits {
		word, value := billing.Span(span).String(), ""
		if limit != 0 {
			value = limit.Short()
		}
		all = append(all, claimed{what: title + "limits: " + word, path: path + ".limits." + word, value: orNone(value)})
	}
	return all
}

func (u *User) claims(path string, zone *time.Location, read reader) []claimed {
	title := "user " + u.Name + ": "
	all := []claimed{
		{what: title + "balance", path: path + ".balance", value: billing.ShortUSD(string(u.Balance))},
		{what: title + "concurrency", path: path + ".concurrency", value: strconv.Itoa(*u.Concurrency)},
	}
	for i, s := range u.Subscriptions {
		value := "never"
		if until, _ := ParseMoment(s.Until, zone); !until.IsZero() { // checked
			value = until.Format(time.RFC3339)
		}
		all = append(all, claimed{what: title + "the end of the subscription of " + s.Group, path: fmt.Sprintf("%s.subscribe[%d]", path, i), value: value})
	}
	for i, k := range u.Keys {
		// The same placeholder is the same key, whatever that is.
		text, hidden := read(k.Key)
		id := upstream.Digest(text)
		if !hidden {
			digest, _ := keyDigest(text) // checked
			id = hex.EncodeToString(digest[:])
		}
		all = append(all, claimed{what: "the user of the key " + id[:gateway.KeyIDDigits], path: fmt.Sprintf("%s.key[%d]", path, i), value: u.Name})
	}
	return all
}

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

// writtenSite is the site of a config that a file holds, whose placeholders are not
// resolved.
func (h *Config) writtenSite(place func(path string) string) (*Site, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	var full Config // the adapted config shows no defaults
	if err := json.Unmarshal(text, &full); err != nil {
		return nil, err
	}
	full.setDefaults()
	return &Site{full.Store.writtenKey(), "", place, full.claims(asWritten)}, nil
}

// writtenKey is the same for two stores that are written in the same way. Others may
// turn out to be one store when they are resolved.
func (s *Store) writtenKey() string {
	if s.Redis == nil {
		return "embedded:" + filepath.Clean(s.Embedded.Dir)
	}
	urls := slices.Sorted(slices.Values(s.Redis.URL))
	return strings.Join(append([]string{"redis", s.Redis.Sentinel, s.Redis.Namespace}, urls...), " ")
}
