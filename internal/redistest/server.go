package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server process. Its methods may be called in any order, and
// those that find nothing to do, do nothing.
type Server struct {
	Addr   string // host:port, or the path of a socket file
	URL    string // redis://127.0.0.1:port/0, or rediss:// or unix://, with the password
	CAFile string // where it speaks TLS: the PEM file of the authority to trust

	t        testing.TB
	dir      string
	sentinel bool
	client   *redis.Client

	mu      sync.Mutex
	process *process // nil while it does not run
	paused  bool
}

// process is one run of the program.
type process struct {
	*os.Process
	ended chan struct{} // closed once it has been waited for
}

// Kill ends the server with SIGKILL, as a crash would.
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.finish(syscall.SIGKILL); err != nil {
		s.t.Error(err) // not Fatal, as this ends servers in cleanups too
	}
}

// Stop ends the server with SIGTERM, as an operator would.
func (s *Server) Stop() {
	s.t.Helper()
	s.Resume() // a frozen process would not hear it
	if err := s.finish(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
}

// Restart starts the server again on the same port, with the files it left, after
// a Kill if it still runs. It returns once the server answers and has its data.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.launch(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause freezes the server with SIGSTOP: its connections stay, and it answers
// nothing until Resume.
func (s *Server) Pause() {
	s.t.Helper()
	s.freeze(true, syscall.SIGSTOP)
}

// Resume thaws the server with SIGCONT.
func (s *Server) Resume() {
	s.t.Helper()
	s.freeze(false, syscall.SIGCONT)
}

func (s *Server) freeze(paused bool, signal syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil || s.paused == paused {
		return
	}
	if err := s.process.Signal(signal); err != nil {
		s.t.Fatalf("send %v to the server at %s: %v", signal, s.Addr, err)
	}
	s.paused = paused
}

// HoldReplicas keeps from the server's replicas, of which there is at least one, what
// is written from now on, until ReleaseReplicas: if one takes over meanwhile, that is
// lost, and nothing else. The server's clients don't notice. It needs a server
// without users and passwords.
func (s *Server) HoldReplicas() {
	s.t.Helper()
	if err := wait("a replica to have all", s.replicated); err != nil {
		s.t.Fatalf("the server at %s: %v", s.Addr, err)
	}
	s.do("ACL", "SETUSER", "default", "-psync", "-sync")
	s.do("CLIENT", "KILL", "TYPE", "replica")
}

// replicated fails unless a replica has what was written until now.
func (s *Server) replicated(ctx context.Context) error {
	conn := s.client.Conn()
	defer conn.Close()
	// WAIT looks at what its own connection has seen written.
	if err := conn.Ping(ctx).Err(); err != nil {
		return err
	}
	replicas, err := conn.Do(ctx, "WAIT", 1, 500).Int()
	if err == nil && replicas == 0 {
		err = errors.New("no replica has")
	}
	return err
}

// ReleaseReplicas ends what HoldReplicas began.
func (s *Server) ReleaseReplicas() {
	s.t.Helper()
	s.do("ACL", "SETUSER", "default", "+psync", "+sync")
}

// Save writes all data to the file that Restart reads, of a server that logs no
// writes.
func (s *Server) Save() {
	s.t.Helper()
	s.do("SAVE")
}

func (s *Server) do(words ...any) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.client.Do(ctx, words...).Err(); err != nil {
		s.t.Fatalf("%v at the server %s: %v", words, s.Addr, err)
	}
}

// answers says whether the server should: it runs and is not paused.
func (s *Server) answers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.paused
}

// finish ends the process with the signal; with SIGKILL if that takes too long,
// which is an error.
func (s *Server) finish(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	defer func() { s.process, s.paused = nil, false }()
	if err := s.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to the server at %s: %w", signal, s.Addr, err)
	}
	select {
	case <-s.process.ended:
		return nil
	case <-time.After(patience):
	}
	_ = s.process.Kill()
	<-s.process.ended
	return fmt.Errorf("the server at %s did not end within %v of %v, and was killed", s.Addr, patience, signal)
}

// launch starts the process and returns once it answers.
func (s *Server) launch() error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", program, err)
	}
	defer log.Close()
	arguments := []string{s.configFile()}
	if s.sentinel {
		arguments = append(arguments, "--sentinel")
	}
	cmd := exec.Command(program, arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = endWithThread()
	started, err := start(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	s.mu.Lock()
	s.process = started
	s.mu.Unlock()

	err = wait("the server at "+s.Addr+" to answer", func(ctx context.Context) error {
		select {
		case <-started.ended:
			return nil
		default:
			return s.ready(ctx, started.Pid)
		}
	})
	select {
	case <-started.ended:
		err = fmt.Errorf("%s ended: %v", program, cmd.ProcessState)
	default:
	}
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, s.logEnd())
	}
	return nil
}

// start starts the command from a goroutine that keeps its thread, and so the
// process, for as long as the process runs: see endWithThread.
func start(cmd *exec.Cmd) (*process, error) {
	ended, started := make(chan struct{}), make(chan error)
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return &process{Process: cmd.Process, ended: ended}, nil
}

// ready says whether it is this process that answers at the address, with all
// its data, and not somebody else's server.
func (s *Server) ready(ctx context.Context, pid int) error {
	info, err := s.client.Info(ctx).Result()
	if err != nil {
		return err
	}
	if got := field(info, "process_id"); got != fmt.Sprint(pid) {
		return fmt.Errorf("process %s answers instead of %d", got, pid)
	}
	if field(info, "loading") == "1" {
		return errors.New("it is loading its data")
	}
	return nil
}

// field returns a value from lines of name:value.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (s *Server) configFile() string { return filepath.Join(s.dir, "redis.conf") }
func (s *Server) logFile() string    { return filepath.Join(s.dir, "log") }
func (s *Server) dumpFile() string   { return filepath.Join(s.dir, "dump.rdb") }

// logEnd returns the last lines of the log, at most 2,000 bytes.
func (s *Server) logEnd() string {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-2000):])
}
