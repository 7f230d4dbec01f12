package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sub2api/caddy-sub2api/caddymodule/store"
)

// settings resolves a store that was checked. It reads environment variables and
// files. Errors show no password.
func (r *RedisStore) settings(keeping store.Keeping) (*store.Redis, error) {
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
	s := &store.Redis{
		Network: servers.network, Addresses: servers.addresses, Database: servers.database, Namespace: r.Namespace,
		Sentinel: resolved.Sentinel, Refuse: r.OnOutage == outageRefuse, Timeout: time.Duration(*r.Timeout),
		Spool:  filepath.Join(spool, store.SpoolName(r.Namespace, servers.database)),
		Access: store.Access{Username: servers.username, Password: servers.password}, Keeping: keeping,
	}
	if s.Sentinel != "" {
		s.SentinelUsername, s.SentinelPassword = servers.username, servers.password
		s.Access = store.Access{}
	}
	if resolved.Password != "" {
		s.Access.Username, s.Access.Password = resolved.Username, resolved.Password
	}
	if servers.tls {
		var own ClientCertificate
		if resolved.ClientCertificate != nil {
			own = *resolved.ClientCertificate
		}
		if s.Access.Encryption, err = store.LoadEncryption(servers.addresses, resolved.CA, own.Certificate, own.Key); err != nil {
			return nil, err
		}
	}
	return s, nil
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
