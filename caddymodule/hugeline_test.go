package caddymodule_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// peakMemory is the most memory that a process has used, in bytes.
func peakMemory(t *testing.T, pid int) int64 { return processMemory(t, pid, "VmHWM") }

// processMemory is one of the kernel's figures of a process, in bytes.
func processMemory(t *testing.T, pid int, name string) int64 {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("the memory of a process can't be read here: %v", err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

func TestHugeLineCostsNoMemory(t *testing.T) {
	const size = 40 << 20
	s := startSite(t, "1s")
	stream := func() int64 {
		request, _ := http.NewRequest(http.MethodPost, s.url+"/v1/messages",
			strings.NewReader(`{"model":"claude-sonnet-5-5","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}`))
		request.Header.Set("X-Api-Key", "sk-alice")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		n, err := io.Copy(io.Discard, response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 20 {
		stream() // what is allocated once
	}
	before := peakMemory(t, s.cmd.Process.Pid)
	s.sim.Set("", simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.HugeLine, After: 3, Size: size}}))
	if n := stream(); n < size {
		t.Fatalf("%d bytes came of a line of %d", n, size)
	}
	if grown := peakMemory(t, s.cmd.Process.Pid) - before; grown > 8<<20 {
		t.Errorf("a line of %d MiB made the process grow by %d MiB", size>>20, grown>>20)
	}
	s.stop(t, syscall.SIGTERM)
	if records, _ := s.records(t); len(records) != 21 {
		t.Errorf("%d records, want 21", len(records))
	}
}
