package caddymodule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// redisStorage is a namespace in Redis, which other processes share, with everything
// resolved. It never changes.
type redisStorage struct {
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

	access  redisAccess
	keeping // sync is for records that wait in the spool
}

// redisAccess is what an open store takes over from the newest config.
type redisAccess struct {
	username, password string
	encryption         *redisEncryption // nil = none
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

// key is the same for every config of one store, however it gets access.
func (s *redisStorage) key() string {
	addresses := slices.Sorted(slices.Values(s.addresses))
	return fmt.Sprintf("redis:%s:%s:%s/%d#%s", s.network, s.sentinel, strings.Join(slices.Compact(addresses), ","), s.database, s.namespace)
}

// String is what the store is called in logs and errors.
func (s *redisStorage) String() string {
	what := "redis"
	if s.sentinel != "" {
		what += " " + s.sentinel + " of"
	}
	return fmt.Sprintf("%s %s namespace %s", what, strings.Join(s.addresses, " "), s.namespace)
}
