package caddymodule

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
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// redisConfig is a config with that store, and the defaults.
func redisConfig(t *testing.T, store string) *Handler {
	t.Helper()
	return configured(t, "store redis "+store+minimal)
}

func mustRedis(t *testing.T, store string) *redisSettings {
	t.Helper()
	return mustSettings(t, redisConfig(t, store)).storage.(redisStorage).redisSettings
}

var compareRedis = cmp.AllowUnexported(redisSettings{}, redisAccess{})

func TestRedisSettings(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	t.Setenv("REDIS_URL", "redis://:of-url@Example.com/4")
	t.Setenv("REDIS_PASSWORD", "p@ss wörd")
	t.Setenv("MASTER", "mymaster")
	for _, test := range []struct {
		name, store string
		want        redisSettings
	}{
		{"one server", "redis://h", redisSettings{network: "tcp", addresses: []string{"h:6379"}}},
		{"user, password, port and database", "redis://me:s%40y@[::1]:7/2", redisSettings{
			network: "tcp", addresses: []string{"[::1]:7"}, database: 2, access: redisAccess{username: "me", password: "s@y"},
		}},
		{"a URL of the environment", "{env.REDIS_URL}", redisSettings{
			network: "tcp", addresses: []string{"example.com:6379"}, database: 4, access: redisAccess{password: "of-url"},
		}},
		{"a password of its own", "redis://h {\nusername me\npassword {env.REDIS_PASSWORD}\n}", redisSettings{
			network: "tcp", addresses: []string{"h:6379"}, access: redisAccess{username: "me", password: "p@ss wörd"},
		}},
		{"a socket", "unix://:secret@/run/redis.sock?db=3", redisSettings{
			network: "unix", addresses: []string{"/run/redis.sock"}, database: 3, access: redisAccess{password: "secret"},
		}},
		{"a Cluster", "redis://a:1 redis://me:pw@b:2 redis://c:3", redisSettings{
			network: "tcp", addresses: []string{"a:1", "b:2", "c:3"}, access: redisAccess{username: "me", password: "pw"},
		}},
		{"Sentinels", "redis://:of-sentinels@a/1 redis://b:5/1 {\nsentinel {env.MASTER}\npassword of-redis\n}", redisSettings{
			network: "tcp", addresses: []string{"a:26379", "b:5"}, database: 1, sentinel: "mymaster", sentinelPassword: "of-sentinels",
			access: redisAccess{password: "of-redis"},
		}},
		{"options", "redis://h/1 {\nnamespace a:B\ntimeout 2s\non_outage refuse\nspool /spool\n}", redisSettings{
			network: "tcp", addresses: []string{"h:6379"}, database: 1, namespace: "a:B", timeout: 2 * time.Second, refuse: true, spool: "/spool/a%3a%42.1",
		}},
	} {
		if test.want.namespace == "" {
			test.want.namespace, test.want.timeout = "sub2api", time.Second
		}
		if test.want.spool == "" {
			test.want.spool = "/data/caddy/sub2api/spool/" + spoolName(test.want.namespace, test.want.database)
		}
		if diff := cmp.Diff(&test.want, mustRedis(t, test.store), compareRedis); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// What placeholders hid is checked once it is known, without showing it.
func TestBadRedisSettings(t *testing.T) {
	for _, test := range []struct{ name, value, store, want string }{
		{"not a URL", "redis://DO-NOT-SHOW:x y@h", "{env.V}", "URL 1 is not a URL"},
		{"nothing", "", "redis://h {\npassword {env.V}\n}", "password:"},
		{"another database", "redis://:DO-NOT-SHOW@h/1", "{env.V} redis://b", "URL 2 has another database"},
		{"a Cluster with a database", "redis://:DO-NOT-SHOW@h/1", "{env.V} {env.V}", "database 0 alone"},
		{"two passwords", "redis://:DO-NOT-SHOW@h", "{env.V} {\npassword DO-NOT-SHOW\n}", "keep one"},
		{"no such CA", "/nowhere/ca.pem", "rediss://h {\nca {env.V}\n}", "ca: open /nowhere/ca.pem"},
		{"no such certificate", "/nowhere/me.pem", "rediss://h {\nclient_certificate {env.V} {env.V}\n}", "client_certificate: reading /nowhere/me.pem"},
	} {
		t.Setenv("V", test.value)
		_, err := redisConfig(t, test.store).settings()
		if err == nil || !strings.Contains(err.Error(), "store redis: ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "DO-NOT-SHOW") {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
}

func TestRedisStoresAreOneByServerAndNamespace(t *testing.T) {
	first := redisStorage{mustRedis(t, "redis://a redis://b"), keeping{}}
	for store, same := range map[string]bool{
		"redis://:pw@b redis://A:6379":          true,
		"redis://a redis://b {\ntimeout 2s\n}":  true,
		"redis://a":                             false,
		"redis://a redis://c":                   false,
		"redis://a redis://b {\nnamespace x\n}": false,
		"redis://a redis://b {\nsentinel m\n}":  false,
	} {
		other := redisStorage{mustRedis(t, store), keeping{}}
		if (other.key() == first.key()) != same {
			t.Errorf("%s: one store with the first: %t", store, !same)
		}
		if strings.Contains(other.String()+other.key(), "pw") {
			t.Errorf("%s: its name shows the password", other)
		}
	}
}

func TestWhatAReloadCanChangeOfAnOpenStore(t *testing.T) {
	open := redisStorage{mustRedis(t, "redis://a"), keeping{}}
	for store, want := range map[string]string{
		"redis://a":                        "",
		"redis://me:pw@a {\n}":             "",
		"redis://a {\non_outage refuse\n}": "on_outage",
		"redis://a {\ntimeout 2s\n}":       "timeout",
		"redis://a {\nspool /x\n}":         "spool",
		"rediss://a":                       "rediss",
	} {
		err := redisStorage{mustRedis(t, store), keeping{}}.clash(open)
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want+" is another than that of the store") {
			t.Errorf("%s: %v", store, err)
		}
	}
	if err := (redisStorage{open.redisSettings, keeping{sync: true}}).clash(open); err == nil || !strings.Contains(err.Error(), "durability") {
		t.Errorf("another durability: %v", err)
	}
}

func TestRedisClientOptions(t *testing.T) {
	client := func(store string) redis.UniversalClient {
		s := mustRedis(t, store)
		c := newRedisClient(s, func() *redisAccess { return &s.access })
		t.Cleanup(func() { c.Close() })
		return c
	}
	one, ok := client("redis://h:1/2 {\ntimeout 300ms\n}").(*redis.Client)
	if !ok {
		t.Fatal("one server is not one client")
	}
	o := one.Options()
	const timeout = 300 * time.Millisecond
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
	if o := client("unix:///s").(*redis.Client).Options(); o.Network != "unix" || o.Addr != "/s" {
		t.Errorf("a socket is dialled at %s %s", o.Network, o.Addr)
	}
	cluster, ok := client("redis://a redis://b").(*redis.ClusterClient)
	if !ok {
		t.Fatal("two servers are not a Cluster")
	}
	if o := cluster.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly || o.PoolSize != 64 || o.ReadTimeout != time.Second || len(o.Addrs) != 2 {
		t.Errorf("Cluster options %+v", o)
	}
	if c, ok := client("redis://a redis://b {\nsentinel m\n}").(*redis.Client); !ok || c.Options().Addr != "FailoverClient" {
		t.Errorf("Sentinels make a %T", c)
	}
}

func TestRedisTakesTheNewestPassword(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("me", "new")
	at := func(user string) redisStorage {
		return redisStorage{mustRedis(t, "redis://"+user+"@"+server.Addr()), keeping{}}
	}
	b := at("me:old").backend(nil).(*redisBackend)
	defer b.close()
	if err := b.client.Ping(t.Context()).Err(); err == nil || strings.Contains(err.Error(), "old") {
		t.Errorf("with the old password: %v", err)
	}
	b.take(at("me:new"))
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
	const mine = "ca CA\nclient_certificate ME.pem ME.key"
	for _, test := range []struct {
		name, certificate, host, block, want string
	}{
		{"certificate of the address", "by-address", "127.0.0.1", mine, ""},
		{"certificate of the name", "by-name", "localhost", mine, ""},
		{"certificate of another name", "other", "localhost", mine, "not localhost"},
		{"certificate of a name, dialled by address", "by-name", "127.0.0.1", mine, "127.0.0.1"},
		{"an authority that is not trusted", "by-name", "localhost", "client_certificate ME.pem ME.key", "unknown authority"},
		{"no certificate of ours", "by-name", "localhost", "ca CA", "certificate"},
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
			block := strings.NewReplacer("CA", a.file("ca.pem"), "ME", a.file("me")).Replace(test.block)
			s := mustRedis(t, "rediss://"+net.JoinHostPort(test.host, server.Port())+" {\n"+block+"\n}")
			client := newRedisClient(s, func() *redisAccess { return &s.access })
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
	e := &redisEncryption{roots: roots, hosts: []string{"other.example", "cluster.example"}}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if err := e.config("10.0.0.7").VerifyConnection(state); err != nil {
		t.Error(err)
	}
	e.hosts = []string{"other.example"}
	if err := e.config("10.0.0.7").VerifyConnection(state); err == nil {
		t.Error("any certificate of the authority will do")
	}
}
