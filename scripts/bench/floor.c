/* The least that getting an image and hashing it could cost in any language: see docs/adr/0012.

   cc -O2 -o floor scripts/bench/floor.c -lcrypto
   ./floor PORT BYTES | cat >/dev/null

   PORT is that of scripts/bench/endpoint.py, BYTES a multiple of 16 MiB. One thread, one
   connection: receive 1 MiB, hash it while it is in the cache, write it to the pipe. No CRC, no
   parsing, no signature, no retry. Prints processor seconds per GiB. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PART = 16 << 20, STEP = 1 << 20 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void ask(int sock, long size, long offset) {
  char text[256], head[4096];
  int length = snprintf(text, sizeof text,
                        "GET /bench/generated/%ld HTTP/1.1\r\nRange: bytes=%ld-%ld\r\n\r\n", size,
                        offset, offset + PART - 1);
  if (send(sock, text, length, 0) != length) fail("send");
  for (unsigned taken = 0; taken < sizeof head; taken++) {
    if (recv(sock, head + taken, 1, 0) != 1) fail("recv");
    if (taken >= 3 && !memcmp(head + taken - 3, "\r\n\r\n", 4)) return;
  }
  fail("head");
}

int main(int count, char **words) {
  if (count != 3) fail("usage: floor PORT BYTES");
  long size = atol(words[2]);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int sock = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(sock, (struct sockaddr *)&address, sizeof address)) fail("connect");
  char *buffer = mmap(0, 2 * STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(buffer, 2 * STEP, MADV_HUGEPAGE);
  fcntl(1, F_SETPIPE_SZ, STEP);
  SHA256_CTX digest;
  SHA256_Init(&digest);
  for (long done = 0; done < size; done += STEP) {
    if (done % PART == 0) ask(sock, size, done);
    for (long taken = 0, got; taken < STEP; taken += got)
      if ((got = recv(sock, buffer + taken, STEP - taken, 0)) <= 0) fail("recv");
    SHA256_Update(&digest, buffer, STEP);
    for (long gone = 0, got; gone < STEP; gone += got)
      if ((got = write(1, buffer + gone, STEP - gone)) <= 0) fail("write");
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  double seconds = used.ru_utime.tv_sec + used.ru_stime.tv_sec +
                   (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
  fprintf(stderr, "%.3f processor seconds per GiB\n", seconds * (1 << 30) / size);
}
