package config

import (
	"cmp"
	"regexp"
	"time"
)

// Bounds of a Redis store's timeout.
const (
	minStoreTimeout = 50 * time.Millisecond
	maxStoreTimeout = 30 * time.Second
)

// validNamespace: braces would choose a Cluster's hash slot.
var validNamespace = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (s *Store) check() error {
	if s == nil {
		return nil
	}
	at := spot{"store", "store"}
	switch {
	case s.Embedded != nil && s.Redis != nil:
		return at.errorf("", "has embedded and redis; keep one")
	case s.Embedded != nil:
		if _, err := placeholders(s.Embedded.Dir); err != nil {
			return at.errorf("", "embedded: %w", err)
		}
	case s.Redis != nil:
		return s.Redis.check(spot{"store", "store redis"})
	}
	return nil
}

// check checks a Redis store as the config has it. What placeholders hide is
// looked at when they are resolved.
func (r *RedisStore) check(at spot) error {
	if len(r.URL) == 0 {
		return at.errorf("", "names no server; write: store redis redis://host:6379/0")
	}
	plain := true // nothing is hidden by placeholders
	for i, text := range r.URL {
		found, err := placeholders(text)
		if err == nil && !found {
			_, err = parseRedisURL(text, r.Sentinel != "")
		}
		if err != nil {
			return at.errorf("", "URL %d %w", i+1, err)
		}
		plain = plain && !found
	}
	if r.Namespace != "" && !validNamespace.MatchString(r.Namespace) {
		return at.errorf("namespace", "%.80q can't be used; write letters, digits and - _ . : alone, at most 64", r.Namespace)
	}
	if err := cmp.Or(at.oneOf("on_outage", r.OnOutage, outageServe, outageRefuse), r.checkFields(at)); err != nil {
		return err
	}
	if t := r.Timeout; t != nil && (time.Duration(*t) < minStoreTimeout || time.Duration(*t) > maxStoreTimeout) {
		return at.errorf("timeout", "%s is out of range; write a duration from %s to %s", time.Duration(*t), minStoreTimeout, maxStoreTimeout)
	}
	if r.Username != "" && r.Password == "" {
		return at.errorf("username", "has no password with it; add a line `password {env.NAME}`")
	}
	if !plain {
		return nil
	}
	servers, err := parseRedisURLs(r.URL, r.Sentinel != "")
	if err == nil {
		err = r.fits(servers)
	}
	if err != nil {
		return at.errorf("", "%w", err)
	}
	return nil
}

// checkFields checks the words that may hold placeholders.
func (r *RedisStore) checkFields(at spot) error {
	type field struct{ word, text string }
	fields := []field{{"sentinel", r.Sentinel}, {"username", r.Username}, {"password", r.Password}, {"ca", r.CA}, {"spool", r.Spool}}
	if c := r.ClientCertificate; c != nil {
		if c.Certificate == "" || c.Key == "" {
			return at.errorf("client_certificate", "lacks a file; write: client_certificate <certificate file> <key file>")
		}
		fields = append(fields, field{"client_certificate", c.Certificate}, field{"client_certificate", c.Key})
	}
	for _, field := range fields {
		if _, err := placeholders(field.text); err != nil {
			return at.errorf(field.word, "%w", err)
		}
	}
	return nil
}
