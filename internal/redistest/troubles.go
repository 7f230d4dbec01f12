package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Trouble is a state of a real server in which it refuses what clients ask.
type Trouble struct {
	Name    string // for tests
	Words   string // what it says then begins with them
	Options []Option
	// begin and end are commands over a connection that stays open and logged in.
	begin, end func(context.Context, *redis.Conn, *Server) error
	// onlyNew: connections that were open before would go on, so Begin closes them.
	onlyNew bool
}

// TroublePassword is what clients of a server in trouble log in with, where they do.
const TroublePassword = "correct-horse"

// Troubles are those that Begin can bring about.
func Troubles() []Trouble {
	memory, replicas := setting("maxmemory"), setting("min-replicas-to-write")
	return []Trouble{
		{Name: "password changed", Words: "WRONGPASS", onlyNew: true, Options: []Option{Password(TroublePassword)},
			begin: command("CONFIG", "SET", "requirepass", "another"), end: command("CONFIG", "SET", "requirepass", TroublePassword)},
		{Name: "user off", Words: "WRONGPASS", onlyNew: true, Options: []Option{User("gateway", TroublePassword)},
			begin: command("ACL", "SETUSER", "gateway", "off"), end: command("ACL", "SETUSER", "gateway", "on")},
		{Name: "user without scripts", Words: "NOPERM", Options: []Option{User("gateway", TroublePassword)},
			begin: command("ACL", "SETUSER", "gateway", "-eval", "-evalsha"), end: command("ACL", "SETUSER", "gateway", "+eval", "+evalsha")},
		{Name: "user without writes", Words: "ERR The user executing the script can't run this command", Options: []Option{User("gateway", TroublePassword)},
			begin: command("ACL", "SETUSER", "gateway", "-@write"), end: command("ACL", "SETUSER", "gateway", "+@all")},
		// Scripts end after some of their writes.
		{Name: "user without one write", Words: "ERR The user executing the script can't run this command", Options: []Option{User("gateway", TroublePassword)},
			begin: command("ACL", "SETUSER", "gateway", "-hset"), end: command("ACL", "SETUSER", "gateway", "+hset")},
		{Name: "user without keys", Words: "NOPERM", Options: []Option{User("gateway", TroublePassword)},
			begin: command("ACL", "SETUSER", "gateway", "resetkeys", "~other:*"), end: command("ACL", "SETUSER", "gateway", "allkeys")},
		{Name: "maxmemory", Words: "OOM", begin: memory("1"), end: memory("0")},
		{Name: "maxclients", Words: "ERR max number of clients", onlyNew: true, begin: setting("maxclients")("1"), end: setting("maxclients")("1000")},
		{Name: "too few replicas", Words: "NOREPLICAS", begin: replicas("1"), end: replicas("0")},
		{Name: "replica", Words: "READONLY", begin: replicaOfNobody, end: command("REPLICAOF", "NO", "ONE")},
		{Name: "replica without stale data", Words: "MASTERDOWN", Options: []Option{Config("replica-serve-stale-data no")},
			begin: replicaOfNobody, end: command("REPLICAOF", "NO", "ONE")},
		{Name: "dump fails", Words: "MISCONF", begin: failDump, end: mendDump},
		{Name: "busy", Words: "BUSY", Options: []Option{Config("lua-time-limit 50")}, begin: runForever, end: command("SCRIPT", "KILL")},
	}
}

// Begin brings the trouble about, and returns what ends it.
func (trouble *Trouble) Begin(t testing.TB, s *Server) (end func()) {
	t.Helper()
	ctx := context.Background()
	conn := s.client.Conn()
	t.Cleanup(func() { conn.Close() })
	do := func(what string, f func(context.Context, *redis.Conn, *Server) error) {
		t.Helper()
		bounded, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := f(bounded, conn, s); err != nil {
			t.Fatalf("%s the trouble %q of the server at %s: %v", what, trouble.Name, s.Addr, err)
		}
	}
	do("begin", trouble.begin)
	if trouble.onlyNew {
		do("close connections for", disconnect)
	}
	return func() {
		t.Helper()
		do("end", trouble.end)
	}
}

func command(words ...any) func(context.Context, *redis.Conn, *Server) error {
	return func(ctx context.Context, conn *redis.Conn, _ *Server) error { return conn.Do(ctx, words...).Err() }
}

func setting(name string) func(value string) func(context.Context, *redis.Conn, *Server) error {
	return func(value string) func(context.Context, *redis.Conn, *Server) error {
		return command("CONFIG", "SET", name, value)
	}
}

// disconnect closes all connections of clients but this one.
func disconnect(ctx context.Context, conn *redis.Conn, _ *Server) error {
	for _, kind := range []string{"normal", "pubsub"} {
		if err := conn.Do(ctx, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
			return err
		}
	}
	return nil
}

// replicaOfNobody makes the server a replica of a port that nobody listens on.
func replicaOfNobody(ctx context.Context, conn *redis.Conn, _ *Server) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	return conn.Do(ctx, "REPLICAOF", "127.0.0.1", port).Err()
}

// failDump has the server fail to write its dump: a directory is in the way.
func failDump(ctx context.Context, conn *redis.Conn, s *Server) error {
	if err := os.MkdirAll(filepath.Join(s.dumpFile(), "in the way"), 0o700); err != nil {
		return err
	}
	if err := conn.Do(ctx, "CONFIG", "SET", "save", "3600 1000000").Err(); err != nil {
		return err
	}
	return dump(ctx, conn, "err")
}

func mendDump(ctx context.Context, conn *redis.Conn, s *Server) error {
	if err := os.RemoveAll(s.dumpFile()); err != nil {
		return err
	}
	if err := dump(ctx, conn, "ok"); err != nil {
		return err
	}
	return conn.Do(ctx, "CONFIG", "SET", "save", "").Err()
}

// dump has the server write its dump, which must end so.
func dump(ctx context.Context, conn *redis.Conn, status string) error {
	if err := conn.Do(ctx, "BGSAVE").Err(); err != nil {
		return err
	}
	for {
		info, err := conn.Info(ctx, "persistence").Result()
		if err != nil {
			return err
		}
		if got := field(info, "rdb_last_bgsave_status"); got == status && field(info, "rdb_bgsave_in_progress") == "0" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the dump does not end as %q: %w", status, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// runForever has the server run a script that has no end, until it says that it is
// busy.
func runForever(ctx context.Context, conn *redis.Conn, s *Server) error {
	other, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return err
	}
	s.t.Cleanup(func() { other.Close() })
	if _, err := other.Write([]byte("EVAL \"while true do end\" 0\r\n")); err != nil {
		return err
	}
	for {
		err := conn.Ping(ctx).Err()
		if redis.HasErrorPrefix(err, "BUSY") {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("it is not busy: %w", ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
