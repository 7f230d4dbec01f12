package store

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// redisPool is how many connections go to each server, at most. Answers come
	// within a millisecond or so: that many carry tens of thousands of commands per
	// second.
	redisPool = 64
	// redisIdle closes connections before firewalls forget them.
	redisIdle = 5 * time.Minute
	// redisLayout is how often a Cluster is asked who is master of what, by the
	// commands that come. The library asks at once when a server refers it to
	// another, but not when a server is dead.
	redisLayout = 500 * time.Millisecond
	// redisRetries is how often a command that got no answer is sent again: every
	// script must bear to run twice.
	redisRetries = 1
	// redisProtocol is RESP2, which all servers speak: nothing that RESP3 adds is
	// used.
	redisProtocol = 2
)

// newRedisClient makes a client of a store, which dials when it is used. access
// is asked for every new connection.
func newRedisClient(s *Redis, access func() *Access) redis.UniversalClient {
	credentials := func(context.Context) (string, string, error) {
		now := access()
		return now.Username, now.Password, nil
	}
	options := &redis.UniversalOptions{
		Addrs:      slices.Clone(s.Addresses), // Sentinels are shuffled
		DB:         s.Database,
		ClientName: "sub2api",
		Protocol:   redisProtocol,

		CredentialsProviderContext: credentials,
		SentinelUsername:           s.SentinelUsername,
		SentinelPassword:           s.SentinelPassword,
		MasterName:                 s.Sentinel,

		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialRedis(ctx, network, address, s.Timeout, access().Encryption)
		},
		DialTimeout:   s.Timeout,
		DialerRetries: 1,
		ReadTimeout:   s.Timeout,
		WriteTimeout:  s.Timeout,
		MaxRetries:    redisRetries,

		ContextTimeoutEnabled: true,

		PoolSize:         redisPool,
		PoolTimeout:      s.Timeout,
		ConnMaxIdleTime:  redisIdle,
		PipelinePoolSize: -1, // pipelines use the same connections

		// Old servers would answer the question for them with an error.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch {
	case s.Sentinel != "":
		return redis.NewFailoverClient(options.Failover())
	case len(s.Addresses) > 1:
		cluster := options.Cluster()
		cluster.ClusterStateReloadInterval = redisLayout
		return redis.NewClusterClient(cluster)
	}
	simple := options.Simple()
	simple.Network = s.Network
	return redis.NewClient(simple)
}

// dialRedis connects to a server. Where encryption is nil, it is in clear.
func dialRedis(ctx context.Context, network, address string, timeout time.Duration, encryption *Encryption) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	plain, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if encryption == nil {
		return newRedisConn(plain), nil
	}
	host, _, _ := net.SplitHostPort(address)
	conn := tls.Client(plain, encryption.config(host))
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return newRedisConn(conn), nil
}
