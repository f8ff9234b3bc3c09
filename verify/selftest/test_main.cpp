// The main of every test program. Tests judge small cases: with one thread each they do not wait for one another.

#include <gtest/gtest.h>
#include <omp.h>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  omp_set_num_threads(1);
  return RUN_ALL_TESTS();
}
