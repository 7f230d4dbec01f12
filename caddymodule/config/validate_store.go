package config

import (
	"cmp"
	"regexp"
)

// validNamespace: braces would choose a Cluster's hash slot.
var validNamespace = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (s *Store) check() error {
	if s == nil {
		return nil
	}
	at := position{"store", "store"}
	switch {
	case s.Embedded != nil && s.Redis != nil:
		return at.errorf("", "has embedded and redis; keep one")
	case s.Embedded != nil:
		if _, err := placeholders(s.Embedded.Dir); err != nil {
			return at.errorf("", "embedded: %w", err)
		}
	case s.Redis != nil:
		return s.Redis.check(position{"store", "store redis"})
	}
	return nil
}

// check checks a Redis store as the config has it. What placeholders hide is
// looked at when they are resolved.
func (r *RedisStore) check(at position) error {
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
	if err := cmp.Or(checkOptions(at, r.options()), r.ClientCertificate.check(at)); err != nil {
		return err
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

// check checks the names of both files; nil is no certificate.
func (c *ClientCertificate) check(at position) error {
	if c == nil {
		return nil
	}
	if c.Certificate == "" || c.Key == "" {
		return at.errorf("client_certificate", "lacks a file; write: client_certificate <certificate file> <key file>")
	}
	for _, file := range []string{c.Certificate, c.Key} {
		if _, err := placeholders(file); err != nil {
			return at.errorf("client_certificate", "%w", err)
		}
	}
	return nil
}
