package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func TestRedisClientOptions(t *testing.T) {
	client := func(s *Redis) redis.UniversalClient {
		c := newRedisClient(s, func() *Access { return &s.Access })
		t.Cleanup(func() { c.Close() })
		return c
	}
	const timeout = 300 * time.Millisecond
	one, ok := client(&Redis{Network: "tcp", Addresses: []string{"h:1"}, Database: 2, Timeout: timeout}).(*redis.Client)
	if !ok {
		t.Fatal("one server is not one client")
	}
	o := one.Options()
	if o.Network != "tcp" || o.Addr != "h:1" || o.DB != 2 || o.ClientName != "sub2api" || o.Protocol != 2 || !o.ContextTimeoutEnabled {
		t.Errorf("options %+v", o)
	}
	for what, got := range map[string]time.Duration{"dial": o.DialTimeout, "read": o.ReadTimeout, "write": o.WriteTimeout, "pool": o.PoolTimeout} {
		if got != timeout {
			t.Errorf("%s timeout %s", what, got)
		}
	}
	if o.PoolSize != 64 || o.MaxRetries != 1 || o.DialerRetries != 1 {
		t.Errorf("pool of %d, %d retries, %d dials", o.PoolSize, o.MaxRetries, o.DialerRetries)
	}
	if o := client(&Redis{Network: "unix", Addresses: []string{"/s"}}).(*redis.Client).Options(); o.Network != "unix" || o.Addr != "/s" {
		t.Errorf("a socket is dialled at %s %s", o.Network, o.Addr)
	}
	cluster, ok := client(&Redis{Network: "tcp", Addresses: []string{"a", "b"}, Timeout: time.Second}).(*redis.ClusterClient)
	if !ok {
		t.Fatal("two servers are not a Cluster")
	}
	if o := cluster.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly || o.PoolSize != 64 || o.ReadTimeout != time.Second || len(o.Addrs) != 2 {
		t.Errorf("Cluster options %+v", o)
	}
	if c, ok := client(&Redis{Network: "tcp", Addresses: []string{"a", "b"}, Sentinel: "m"}).(*redis.Client); !ok || c.Options().Addr != "FailoverClient" {
		t.Errorf("Sentinels make a %T", c)
	}
}

func TestRedisTakesTheNewestPassword(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("me", "new")
	at := func(password string) *Redis {
		return &Redis{Network: "tcp", Addresses: []string{server.Addr()}, Timeout: time.Second, Access: Access{Username: "me", Password: password}}
	}
	b := at("old").Backend(nil).(*redisBackend)
	defer b.Close()
	if err := b.client.Ping(t.Context()).Err(); err == nil || strings.Contains(err.Error(), "old") {
		t.Errorf("with the old password: %v", err)
	}
	b.Take(at("new"))
	if err := b.client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("with the new password: %v", err)
	}
}

// authority makes certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	dir         string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.certificate, a.key = a.issue(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true})
	return a
}

// issue writes name.pem and name.key; the first one is the authority's own.
func (a *authority) issue(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{a.file(name + ".pem"): {Type: "CERTIFICATE", Bytes: der}, a.file(name + ".key"): {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func TestRedisOverTLS(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "by-address", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	a.issue(t, "by-name", &x509.Certificate{DNSNames: []string{"localhost"}})
	a.issue(t, "other", &x509.Certificate{DNSNames: []string{"example.com"}})
	a.issue(t, "me", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	known := x509.NewCertPool()
	known.AddCert(a.certificate)
	ca, me := a.file("ca.pem"), a.file("me")
	for _, test := range []struct {
		name, certificate, host, ca, own, want string
	}{
		{"certificate of the address", "by-address", "127.0.0.1", ca, me, ""},
		{"certificate of the name", "by-name", "localhost", ca, me, ""},
		{"certificate of another name", "other", "localhost", ca, me, "not localhost"},
		{"certificate of a name, dialled by address", "by-name", "127.0.0.1", ca, me, "127.0.0.1"},
		{"an authority that is not trusted", "by-name", "localhost", "", me, "unknown authority"},
		{"no certificate of ours", "by-name", "localhost", ca, "", "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pair, err := tls.LoadX509KeyPair(a.file(test.certificate+".pem"), a.file(test.certificate+".key"))
			if err != nil {
				t.Fatal(err)
			}
			server := miniredis.NewMiniRedis()
			if err := server.StartTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known}); err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			own := ""
			if test.own != "" {
				own = test.own + ".pem"
			}
			s := &Redis{Network: "tcp", Addresses: []string{net.JoinHostPort(test.host, server.Port())}, Timeout: time.Second}
			if s.Access.Encryption, err = LoadEncryption(s.Addresses, test.ca, own, test.own+".key"); err != nil {
				t.Fatal(err)
			}
			client := newRedisClient(s, func() *Access { return &s.Access })
			defer client.Close()
			err = client.Ping(context.Background()).Err()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// A Cluster tells of its nodes by address, where its certificate has the name of
// the URL.
func TestRedisNodeMayShowTheCertificateOfTheURL(t *testing.T) {
	a := newAuthority(t)
	leaf, _ := a.issue(t, "by-name", &x509.Certificate{DNSNames: []string{"cluster.example"}})
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	e := &Encryption{roots: roots, hosts: []string{"other.example", "cluster.example"}}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if err := e.config("10.0.0.7").VerifyConnection(state); err != nil {
		t.Error(err)
	}
	e.hosts = []string{"other.example"}
	if err := e.config("10.0.0.7").VerifyConnection(state); err == nil {
		t.Error("any certificate of the authority will do")
	}
}
