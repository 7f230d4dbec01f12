package caddymodule

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// redisSettings are those of a Redis store, resolved. They never change.
type redisSettings struct {
	network   string   // tcp or unix
	addresses []string // of one server, of nodes of a Cluster, or of Sentinels
	database  int
	namespace string
	// sentinel is the name of the master that the Sentinels know; "" = none.
	sentinel                           string
	sentinelUsername, sentinelPassword string

	refuse  bool // requests during an outage
	timeout time.Duration
	spool   string // absolute

	access redisAccess
}

// redisAccess is what an open store takes over from the newest config.
type redisAccess struct {
	username, password string
	encryption         *redisEncryption // nil = none
}

// settings resolves a store that was checked. It reads environment variables and
// files. Errors show no password.
func (r *RedisStore) settings() (*redisSettings, error) {
	resolved := *r
	resolved.URL = slices.Clone(r.URL)
	if r.ClientCertificate != nil {
		resolved.ClientCertificate = new(*r.ClientCertificate)
	}
	for _, field := range resolved.texts() {
		text, err := resolve(*field.text)
		if err == nil && text == "" && *field.text != "" {
			err = errors.New("resolves to nothing")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field.word, err)
		}
		*field.text = text
	}
	servers, err := parseRedisURLs(resolved.URL, resolved.Sentinel != "")
	if err == nil {
		err = resolved.fits(servers)
	}
	if err != nil {
		return nil, err
	}
	spool, err := filepath.Abs(resolved.Spool)
	if err != nil {
		return nil, fmt.Errorf("spool: making %s absolute: %w", resolved.Spool, err)
	}
	s := &redisSettings{
		network: servers.network, addresses: servers.addresses, database: servers.database, namespace: r.Namespace,
		sentinel: resolved.Sentinel, refuse: r.OnOutage == outageRefuse, timeout: time.Duration(*r.Timeout),
		spool:  filepath.Join(spool, spoolName(r.Namespace, servers.database)),
		access: redisAccess{username: servers.username, password: servers.password},
	}
	if s.sentinel != "" {
		s.sentinelUsername, s.sentinelPassword = servers.username, servers.password
		s.access = redisAccess{}
	}
	if resolved.Password != "" {
		s.access.username, s.access.password = resolved.Username, resolved.Password
	}
	if servers.tls {
		if s.access.encryption, err = resolved.loadCertificates(servers.addresses); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// spoolName is the directory of a store in the spool. A store that is moved to
// another server takes its records along.
func spoolName(namespace string, database int) string {
	name := escapeName(namespace)
	if database > 0 {
		name += "." + strconv.Itoa(database)
	}
	return name
}

// storeField is an option that may hold placeholders.
type storeField struct {
	word string
	text *string
}

func (r *RedisStore) texts() []storeField {
	fields := []storeField{
		{"sentinel", &r.Sentinel}, {"username", &r.Username}, {"password", &r.Password}, {"ca", &r.CA}, {"spool", &r.Spool},
	}
	for i := range r.URL {
		fields = append(fields, storeField{"URL " + strconv.Itoa(i+1), &r.URL[i]})
	}
	if c := r.ClientCertificate; c != nil {
		fields = append(fields, storeField{"client_certificate", &c.Certificate}, storeField{"client_certificate", &c.Key})
	}
	return fields
}

// key is the same for every config of one store, however it gets access.
func (s *redisSettings) key() string {
	addresses := slices.Sorted(slices.Values(s.addresses))
	return fmt.Sprintf("redis:%s:%s:%s/%d#%s", s.network, s.sentinel, strings.Join(slices.Compact(addresses), ","), s.database, s.namespace)
}

// String is what the store is called in logs and errors.
func (s *redisSettings) String() string {
	what := "redis"
	if s.sentinel != "" {
		what += " " + s.sentinel + " of"
	}
	return fmt.Sprintf("%s %s namespace %s", what, strings.Join(s.addresses, " "), s.namespace)
}
