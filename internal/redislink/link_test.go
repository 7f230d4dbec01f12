package redislink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func init() { redis.SetLogger(silence{}) }

// silence keeps the client from writing to standard error.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// bench is a link to a server in the same process, whose clock is the bubble's.
type bench struct {
	*Link
	t      *testing.T
	server *miniredis.Miniredis

	mu  sync.Mutex
	log bytes.Buffer
	// dial, if it is set, connects to something else.
	dial func() (net.Conn, error)
	// do, if it is set, is what becomes of a round trip.
	do func(next func() error) error
}

// inBubble runs a test with a link, which is closed after it.
func inBubble(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, server: miniredis.NewMiniRedis()}
		client := redis.NewClient(&redis.Options{
			Addr: "127.0.0.1:6379", Password: "secret", MaxRetries: -1, DialerRetries: 1, Protocol: 2, DisableIdentity: true, ContextTimeoutEnabled: true,
			Dialer: func(context.Context, string, string) (net.Conn, error) {
				b.mu.Lock()
				dial := b.dial
				b.mu.Unlock()
				if dial != nil {
					return dial()
				}
				return b.server.Dial()
			},
		})
		client.AddHook(b)
		b.server.RequireAuth("secret")
		b.Link = New(client, Options{Meanwhile: "nobody is served", Logger: slog.New(slog.NewTextHandler(b, nil))})
		defer func() {
			b.Close()
			client.Close()
			b.server.Close()
			time.Sleep(2 * time.Second) // a pool that could not dial looks once a second whether it was closed
		}()
		test(b)
	})
}

// Write implements io.Writer for the log.
func (b *bench) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(line)
}

// DialHook and the others implement redis.Hook.
func (b *bench) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *bench) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b *bench) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		b.mu.Lock()
		do := b.do
		b.mu.Unlock()
		if do == nil {
			return next(ctx, commands)
		}
		err := do(func() error { return next(ctx, commands) })
		if err != nil {
			for _, command := range commands {
				command.SetErr(err)
			}
		}
		return err
	}
}

func (b *bench) set(dial func() (net.Conn, error), do func(next func() error) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dial, b.do = dial, do
}

// ping sends a command.
func (b *bench) ping() error {
	var cmd *redis.StatusCmd
	if err := b.Exec(context.Background(), Guard{}, nil, func(pipe redis.Pipeliner) { cmd = pipe.Ping(context.Background()) }); err != nil {
		return err
	}
	return cmd.Err()
}

// lose has the server refuse everything, and somebody notice.
func (b *bench) lose() {
	b.t.Helper()
	b.server.SetError("LOADING Redis is loading the dataset in memory")
	if err := b.ping(); err == nil || b.Down() == nil {
		b.t.Fatalf("error %v, down: %v", err, b.Down())
	}
}

func (b *bench) isDown() bool { return b.Down() != nil }

// wantLines asserts how many lines the log has: that Redis is gone, that it is back,
// and others.
func (b *bench) wantLines(gone, back, others int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.log.String()
	all := strings.Count(text, "\n")
	if g, k := strings.Count(text, `level=ERROR msg="Redis is out of reach; nobody is served"`), strings.Count(text, `level=INFO msg="Redis is back"`); g != gone || k != back || all-g-k != others {
		b.t.Errorf("%d lines that it is gone, %d that it is back, %d others; want %d, %d, %d:\n%s", g, k, all-g-k, gone, back, others, text)
	}
}

// TestWhatRedisSaysWhenItServesNobody, to a command, and to a script of servers old and
// new.
func TestWhatRedisSaysWhenItServesNobody(t *testing.T) {
	for text, want := range map[string]bool{
		"NOAUTH Authentication required.":                                                                                                                                       true,
		"WRONGPASS invalid username-password pair or user is disabled.":                                                                                                         true,
		"NOPERM this user has no permissions to run the 'eval' command":                                                                                                         true,
		"DENIED Redis is running in protected mode because protected mode is enabled":                                                                                           true,
		"LOADING Redis is loading the dataset in memory":                                                                                                                        true,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":                                                                                      true,
		"CLUSTERDOWN The cluster is down":                                                                                                                                       true,
		"CLUSTERDOWN Hash slot not served":                                                                                                                                      true,
		"READONLY You can't write against a read only replica.":                                                                                                                 true,
		"OOM command not allowed when used memory > 'maxmemory'.":                                                                                                               true,
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to":                                                                                       true,
		"NOREPLICAS Not enough good replicas to write.":                                                                                                                         true,
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.":                                                                                true,
		"ERR max number of clients reached":                                                                                                                                     true,
		"ERR max number of clients + cluster connections reached":                                                                                                               true,
		"OOM command not allowed when used memory > 'maxmemory'. script: db8d8f6383e1a67ce23db65efd679a334c123806, on @user_script:1.":                                          true,
		"ERR Error running script (call to f_db8d8f): @user_script:1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.":                                true,
		"ERR Error running script (call to f_db8d8f): @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica.":                                  true,
		"ERR Error running script (call to f_db8d8f): @user_script:1: @user_script: 1: -MISCONF Errors writing to the AOF file: No space left on device":                        true,
		"ERR Error running script (call to f_db8d8f): @user_script:1: @user_script: 1: The user executing the script can't run this command or subcommand":                      true,
		"ERR Error running script (call to f_db8d8f): @user_script:1: @user_script: 1: Script attempted to execute a write command while the cluster is down and readonly":      true,
		"ERR The user executing the script can't access at least one of the keys mentioned in the command script: db8d8f6383e1a67ce23db65efd679a334c123806, on @user_script:1.": true,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                                                                                                     false,
		"ERR Error running script (call to f_db8d8f): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value":                                        false,
		"ERR Error running script (call to f_db8d8f): @user_script:3: user_script:3: attempt to index a nil value":                                                              false,
		"ERR unknown command 'EVALSHA'":                                                                                                                                         false,
		"BUSYGROUP Consumer Group name already exists":                                                                                                                          false,
		"BUSYKEY Target key name already exists.":                                                                                                                               false,
		"TRYAGAIN Multiple keys request during rehashing of slot":                                                                                                               false,
		"CROSSSLOT Keys in request don't hash to the same slot":                                                                                                                 false,
		"ERR the user OOM has no right to LOADING":                                                                                                                              false,
	} {
		inBubble(t, func(b *bench) {
			if err := b.ping(); err != nil {
				t.Fatal(err)
			}
			b.server.SetError(text)
			err := b.ping()
			_, is := errors.AsType[*Outage](err)
			if is != want || b.isDown() != want || err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: error %v, down: %v", text, err, b.Down())
			}
			if !want {
				b.wantLines(0, 0, 0)
				return
			}
			b.server.SetError("")
			time.Sleep(time.Second)
			if b.isDown() {
				t.Errorf("%s: it is down still", text)
			}
			b.wantLines(1, 1, 0)
		})
	}
}

// far returns a connection whose other end does something.
func far(serve func(net.Conn)) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		near, far := net.Pipe()
		go serve(far)
		return near, nil
	}
}

func TestWhatServesNobodyWithoutSayingSo(t *testing.T) {
	answering := func(answer string) func(net.Conn) {
		return func(conn net.Conn) {
			defer conn.Close()
			for buffer := make([]byte, 4096); ; {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
				if _, err := io.WriteString(conn, answer); err != nil {
					return
				}
			}
		}
	}
	for name, test := range map[string]struct {
		dial func() (net.Conn, error)
		took time.Duration
	}{
		"nobody is there":             {func() (net.Conn, error) { return nil, errors.New("connection refused") }, 0},
		"a connection that is closed": {far(func(conn net.Conn) { conn.Close() }), 0},
		"another protocol":            {far(answering("HTTP/1.1 400 Bad Request\r\n\r\n")), 0},
		"a refusal for a greeting":    {far(answering("-ERR max number of clients reached\r\n")), 0},
		"the password is refused":     {far(answering("-WRONGPASS invalid username-password pair or user is disabled.\r\n")), 0},
		"no password is expected":     {far(answering("-ERR AUTH <password> called without any password configured for the default user.\r\n")), 0},
		"silence":                     {far(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.set(test.dial, nil)
				began := time.Now()
				err := b.ping()
				outage, is := errors.AsType[*Outage](err)
				if !is || outage.Stalled || !b.isDown() {
					t.Fatalf("error %v, down: %v", err, b.Down())
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				time.Sleep(time.Minute)
				b.wantLines(1, 0, 0)
				b.set(nil, nil)
				time.Sleep(3 * time.Second)
				if b.isDown() {
					t.Errorf("down: %v", b.Down())
				}
				b.wantLines(1, 1, 0)
			})
		})
	}
}

// TestManyFailuresAreOneOutage, whoever meets them, and each gets the reason.
// TestWhyARedisThatHungUpServesNobody is told, as soon as it says so, once.
func TestWhyARedisThatHungUpServesNobody(t *testing.T) {
	turned := errors.New("connection reset by peer")
	for _, test := range []struct {
		name    string
		says    error
		want    string
		isOther bool
	}{
		{"a refusal", wrongPassword("WRONGPASS invalid username-password pair or user is disabled."), "WRONGPASS", true},
		{"turned away", &TurnedAway{Words: "ERR max number of clients reached", Err: turned}, "max number of clients", true},
		{"nothing", errors.New("dial tcp 127.0.0.1:6379: connection refused"), "connection reset", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				if err := b.ping(); err != nil {
					t.Fatal(err)
				}
				b.set(nil, func(func() error) error { return turned })
				if err := b.ping(); !errors.Is(err, turned) {
					t.Fatal(err)
				}
				b.set(nil, func(func() error) error { return test.says })
				time.Sleep(time.Minute)
				others := 0
				if test.isOther {
					others = 1
				}
				b.wantLines(1, 0, others)
				b.mu.Lock()
				log := b.log.String()
				b.mu.Unlock()
				if !strings.Contains(log, test.want) {
					t.Errorf("the log does not say %q:\n%s", test.want, log)
				}
				b.set(nil, nil)
				time.Sleep(time.Minute)
				b.wantLines(1, 1, others)
			})
		})
	}
}

// wrongPassword is a server's answer.
type wrongPassword string

func (w wrongPassword) Error() string { return string(w) }
func (wrongPassword) RedisError()     {}

func TestManyFailuresAreOneOutage(t *testing.T) {
	inBubble(t, func(b *bench) {
		for round := 1; round <= 3; round++ {
			b.server.SetError("READONLY You can't write against a read only replica.")
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					if err := b.ping(); err == nil || !strings.Contains(err.Error(), "READONLY") {
						t.Errorf("error %v", err)
					}
				})
			}
			all.Wait()
			if err := b.Down(); err == nil || !strings.Contains(err.Error(), "READONLY") {
				t.Errorf("down: %v", err)
			}
			time.Sleep(time.Minute)
			b.wantLines(round, round-1, 0)
			b.server.SetError("")
			time.Sleep(time.Second)
			b.wantLines(round, round, 0)
			time.Sleep(time.Minute)
		}
		if !b.server.Exists("{sub2api}:probe") {
			t.Error("the probe writes nothing: it does not find a server that takes no writes")
		}
	})
}

// TestPausesGrowWhileRedisComesAndGoes, and are short again for one that stayed.
func TestPausesGrowWhileRedisComesAndGoes(t *testing.T) {
	inBubble(t, func(b *bench) {
		outage := func() time.Duration {
			b.lose()
			b.server.SetError("")
			began := time.Now()
			for b.isDown() {
				time.Sleep(10 * time.Millisecond)
			}
			return time.Since(began) - 10*time.Millisecond
		}
		for i, want := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 15000, 15000} {
			if took := outage(); took != want*time.Millisecond {
				t.Errorf("outage %d took %v, want %v", i, took, want*time.Millisecond)
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(10 * time.Second)
		if took := outage(); took != 250*time.Millisecond {
			t.Errorf("an outage long after took %v", took)
		}
	})
}

// TestAProcessThatStoodStill asks before it takes Redis to be down.
func TestAProcessThatStoodStill(t *testing.T) {
	stands := func(times int) func(next func() error) error {
		var mu sync.Mutex
		return func(next func() error) error {
			err := next()
			mu.Lock()
			defer mu.Unlock()
			if times--; times >= 0 {
				time.Sleep(5 * time.Second)
				return context.DeadlineExceeded
			}
			return err
		}
	}
	for times, down := range map[int]bool{1: false, 2: false, 3: false, 4: true} {
		inBubble(t, func(b *bench) {
			b.set(nil, stands(times))
			err := b.ping()
			if outage, is := errors.AsType[*Outage](err); !is || !outage.Stalled || b.isDown() {
				t.Fatalf("error %v, down: %v", err, b.Down())
			}
			time.Sleep(time.Minute)
			if down {
				b.wantLines(1, 1, 0)
			} else {
				b.wantLines(0, 0, 0)
			}
		})
	}
	inBubble(t, func(b *bench) { // and Redis is gone as well
		b.set(nil, stands(1))
		_ = b.ping()
		b.server.SetError("LOADING Redis is loading the dataset in memory")
		synctest.Wait()
		time.Sleep(time.Second)
		if !b.isDown() {
			t.Error("it is up")
		}
		b.wantLines(1, 0, 0)
	})
}

// TestAnAnswerThatFailsLate is of the outage that is over by then.
func TestAnAnswerThatFailsLate(t *testing.T) {
	inBubble(t, func(b *bench) {
		late := make(chan error)
		b.set(nil, func(func() error) error { return <-late })
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- b.ping() }()
		}
		synctest.Wait()
		b.set(nil, nil)
		b.lose()
		b.server.SetError("")
		time.Sleep(time.Second)
		for _, err := range []error{context.DeadlineExceeded, io.ErrUnexpectedEOF} {
			late <- err
			if got := <-done; !errors.Is(got, err) || b.isDown() {
				t.Errorf("error %v, down: %v", got, b.Down())
			}
		}
		b.wantLines(1, 1, 0)
	})
}
