/* Judges the kernel that is linked in, without a process of its own. */
#include <stdio.h>

#include "verify/abi/c_api.h"

static void print(const char* text, void* context) { fputs(text, context); }

int main(void) {
  return attnspec_check(attnspec_kernel(), "dense_moba", 1, "dense(lens=15+16)\nmoba(lens=40,block=16)", 0, print,
                        stdout);
}
