package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// The ports of Redis and of Sentinel.
const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// maxDatabase is far above what any server has.
const maxDatabase = 1 << 20

// redisServers are the servers of one store, as its URLs name them.
type redisServers struct {
	network            string   // tcp or unix
	addresses          []string // host:port, or one path
	tls                bool
	username, password string
	database           int
}

// parseRedisURL reads one resolved URL. The errors do not show it: it may hold a
// password. They go on from "URL 1".
func parseRedisURL(text string, sentinel bool) (redisServers, error) {
	u, err := url.Parse(text)
	if err != nil { // the parser's error would show the whole text
		return redisServers{}, errors.New("is not a URL; write one such as redis://host:6379/0, with what is not a letter or digit in its password as %XX")
	}
	s := redisServers{network: "tcp", tls: u.Scheme == "rediss", username: u.User.Username()}
	s.password, _ = u.User.Password()
	database := strings.TrimPrefix(u.Path, "/")
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return s, errors.New("is neither redis, nor rediss, nor unix; write one such as redis://host:6379/0")
	case u.Opaque != "" || u.Fragment != "":
		return s, errors.New("has parts that mean nothing here; write one such as redis://host:6379/0")
	case s.username != "" && s.password == "":
		return s, errors.New("has a user name and no password; for a password alone, write a colon before it: redis://:password@host")
	case u.Scheme == "unix":
		if s.network, database, err = unixDatabase(u); err != nil {
			return s, err
		}
		if sentinel {
			return s, errors.New("is a unix socket, and Sentinels are reached by host and port")
		}
		s.addresses = []string{u.Path}
	case u.Hostname() == "":
		return s, errors.New("has no host; write one such as redis://host:6379/0")
	case !upstream.ValidPort(u.Port()):
		return s, errors.New("has a port outside 1 to 65535")
	case u.RawQuery != "" || u.ForceQuery:
		return s, errors.New("has a query; leave it out, the words in the block of `store redis` say what can be set")
	default:
		port := u.Port()
		if port == "" {
			port = redisPort
			if sentinel {
				port = sentinelPort
			}
		}
		s.addresses = []string{net.JoinHostPort(strings.ToLower(u.Hostname()), port)}
	}
	if database != "" {
		if s.database, err = strconv.Atoi(database); err != nil || s.database < 0 || s.database > maxDatabase {
			return s, errors.New("has something else than a database's number after the host, such as the 0 of redis://host:6379/0")
		}
	}
	return s, nil
}

// unixDatabase finds the database of a unix:// URL, "" if it names none.
func unixDatabase(u *url.URL) (network, database string, err error) {
	query := u.Query()
	database = query.Get("db")
	query.Del("db")
	switch {
	case u.Host != "" || u.Path == "":
		return "", "", errors.New("has no path; write one such as unix:///run/redis/redis.sock")
	case len(query) > 0:
		return "", "", errors.New("has more in its query than db, the database's number; leave that out")
	}
	return "unix", database, nil
}

// parseRedisURLs reads the resolved URLs of a store. One without a user name and
// password takes those of the others.
func parseRedisURLs(texts []string, sentinel bool) (redisServers, error) {
	var all redisServers
	for i, text := range texts {
		one, err := parseRedisURL(text, sentinel)
		if err != nil {
			return all, fmt.Errorf("URL %d %w", i+1, err)
		}
		if i == 0 {
			all = one
			continue
		}
		if all.password == "" {
			all.username, all.password = one.username, one.password
		}
		switch {
		case one.network == "unix" || all.network == "unix":
			return all, errors.New("a unix socket stands alone: it is not a node of a Cluster")
		case one.tls != all.tls:
			return all, fmt.Errorf("URL %d and one before it are not both rediss, nor both redis", i+1)
		case one.password != "" && (one.username != all.username || one.password != all.password):
			return all, fmt.Errorf("URL %d has another user name or password than one before it; the servers of a store have the same", i+1)
		case one.database != all.database:
			return all, fmt.Errorf("URL %d has another database than URL 1", i+1)
		}
		all.addresses = append(all.addresses, one.addresses...)
	}
	return all, nil
}

// fits checks the block against the servers that the URLs name.
func (r *RedisStore) fits(servers redisServers) error {
	switch {
	case r.Sentinel == "" && len(servers.addresses) > 1 && servers.database != 0:
		return errors.New("several URLs name a Cluster, which has database 0 alone; leave the number out")
	case r.Sentinel == "" && r.Password != "" && servers.password != "":
		return errors.New("has a password in the URL and in the block; keep one")
	case !servers.tls && (r.CA != "" || r.ClientCertificate != nil):
		return errors.New("ca and client_certificate are for TLS; write the URL with rediss, or leave them out")
	}
	return nil
}
